"""What a decision log keeps. The structs are also the bytes (msgpack arrays, fields in the order written here): new
fields go last and carry defaults, tags are never used again.
"""

from typing import TypeAlias

import msgspec

from troth.core.twophase.forgotten import ForgottenState

TEXT_BYTES_MAX = 1024
"""How long a caller's key, or a participant's name, may be: records carry it, and 100,000 keys are kept."""


def is_text(given: object) -> bool:
    """Whether *given* can stand in a record: a str of at most `TEXT_BYTES_MAX` bytes of UTF-8."""
    if not isinstance(given, str):
        return False
    try:
        return len(given.encode()) <= TEXT_BYTES_MAX
    except UnicodeEncodeError:  # half of a pair of surrogates
        return False


class BranchRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One prepared branch: the participant's name, the branch's name there, and how to prove later what became of it.

    `proof` is PostgreSQL's xid8 as text; empty where the database keeps no such knowledge.
    """

    participant: str
    branch: str
    proof: str = ""


class Commit(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """All *branches* are prepared, and the transaction is to commit; with `delegate`, that participant decides.

    `key` is the caller's name for the work (empty: none): at most one transaction with a key commits.
    """

    gid: str
    branches: tuple[BranchRef, ...]
    key: str = ""
    delegate: str = ""


class Abort(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """The cell of *gid* says abort. Written by recovery, and by an owner to which the log did not answer: while
    nothing is in the cell, its own Commit may still arrive.

    Diverges: presumed abort logs none. So does an owner here, as long as no Commit of its own may be on its way.

    After a Commit that delegated the decision: the last resource has refused. The key is free again.
    """

    gid: str
    by: str = ""


class Applied(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    """These transactions are done in every branch; nobody has to look for them."""

    gids: tuple[str, ...]


class Heuristic(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    """*participant* finished its branch of *gid* against the decision; `seen` says how."""

    gid: str
    participant: str
    seen: str


class Forget(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """An operator has dealt with the heuristic outcomes of *gid* in *participants* (none are named: in all)."""

    gid: str
    by: str
    participants: tuple[str, ...] = ()


class Member(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """A participant by name: its kind, and what tells its database from any other (never a secret)."""

    name: str
    kind: str
    identity: str


Record: TypeAlias = Commit | Abort | Applied | Heuristic | Forget | Member


class Opened(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The beginning of a log file: who may decide from here on, and all that is still needed of what came before.

    *epoch* is the one open epoch; all smaller ones are closed: what they have not committed in `carried` is aborted.
    Without an owner (`owned`), a recoverer has opened it just to close the others.
    `sealed` is the number of the file that came before and `sealed_bytes` how much of it counted: nobody reads them but
    a person who looks into the file.
    """

    epoch: int
    sealed: int
    sealed_bytes: int
    carried: tuple[Record, ...] = ()
    forgotten: ForgottenState = ForgottenState()
    owned: bool = True
