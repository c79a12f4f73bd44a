"""What one register or one key can be asked to do, as the search of `linearizability.register` sees it.

=============  ================================  =========================
READ v         needs state == v                  leaves the state alone
NOT v          needs state != v (a failed cas)   leaves the state alone
WRITE v        always possible                   the state becomes v
CAS a b        needs state == a                  the state becomes b
APPEND x       always possible                   the state becomes state+x
=============  ================================  =========================
"""

from typing import Final, TypeAlias

from troth.verify.history import Value

READ: Final = 0
NOT: Final = 1
WRITE: Final = 2
CAS: Final = 3
APPEND: Final = 4

Primitive: TypeAlias = tuple[int, Value, Value, bool]
"""(code, first argument, second argument, crashed). Crashed READ and NOT say nothing and must be left out."""


def joined(state: Value, tail: Value) -> Value:
    """What an APPEND of *tail* makes of *state*: strings and tuples grow, an absent or empty value becomes *tail*."""
    if not tail:
        return state
    if state is None or state == "" or state == ():
        return tail
    if isinstance(state, str) and isinstance(tail, str):
        return state + tail
    if isinstance(state, tuple) and isinstance(tail, tuple):
        return state + tail
    # Types that cannot be joined: a value equal to nothing else that is read.
    return ("unjoinable", state, tail)
