"""What can be made of a register, as functions of its state."""

import pytest

from troth.core.register import changes
from troth.core.register.messages import ZERO, Ballot, State
from troth.core.register.states import Change, Keep, Write

BORN = Ballot(1, 1)
HELD = State(b"v", 1, BORN, ZERO)
TOMBSTONE = State(None, 2, BORN, ZERO)
DECIDED = State(b"v", 1, BORN, ZERO, decided=True)


@pytest.mark.parametrize(
    ("change", "state", "decision"),
    [
        (changes.put(b"w"), None, Write(value=b"w")),
        (changes.put(b"v"), HELD, Write(value=b"v")),
        (changes.cas(b"v", b"w"), HELD, Write(value=b"w")),
        (changes.cas(b"v", b"v"), HELD, Write(value=b"v")),  # it held, and says so
        (changes.cas(b"u", b"w"), HELD, Keep()),
        (changes.cas(None, b"w"), HELD, Keep()),
        (changes.cas(None, b"w"), TOMBSTONE, Write(value=b"w")),
        (changes.cas(None, b"w"), None, Write(value=b"w")),
        (changes.cas(b"v", None), HELD, Write(value=None)),
        (changes.apply(lambda held: held), HELD, Keep()),
        (changes.apply(lambda held: held), None, Keep()),
        (changes.apply(lambda held: None), HELD, Write(value=None)),
        (changes.apply(lambda held: None), TOMBSTONE, Keep()),
        (changes.propose(b"w"), None, Write(value=b"w", decide=True)),
        (changes.propose(b"w"), HELD, Write(value=b"v", decide=True)),
        (changes.propose(b"w"), TOMBSTONE, Write(value=b"w", decide=True)),
        (changes.propose(b"w"), DECIDED, Keep()),
        (changes.delete(), HELD, Write(value=None)),
        (changes.delete(), TOMBSTONE, Keep()),
        (changes.delete(), None, Keep()),
    ],
)
def test_a_change_decides_by_what_is_held(change: Change, state: State | None, decision: Write | Keep) -> None:
    assert change(state) == decision
