"""Names of global transactions and of their branches.

::

    T1.<log>.<coordinator>.<epoch>.<sequence>            the transaction: `Gid`, at most 64 bytes
    T1.<log>.<coordinator>.<epoch>.<sequence>.<branch>   one branch, as PostgreSQL is told

The log's name is drawn when the log is created, the epoch is opened in that log by one process and never again, the
sequence counts in that process: a name is never used twice. So "whose is this branch, and may its owner still
decide?" is answered by the name and the log alone, from any machine.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from typing_extensions import override

FORMAT = "T1"
LOG_CHARS = 8
COORDINATOR_CHARS_MAX = 16

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_NAME = re.compile(rf"[a-z0-9_-]{{1,{COORDINATOR_CHARS_MAX}}}")
# Numbers as `base36` writes them, and no other way: only what we would write ourselves is ours.
_GID = re.compile(
    rf"{FORMAT}\.({_NAME.pattern})\.({_NAME.pattern})\.(0|[1-9a-z][0-9a-z]{{0,24}})\.(0|[1-9a-z][0-9a-z]{{0,24}})(?:\.(.*))?",
    re.DOTALL,
)


def base36(number: int) -> str:
    """*number* (0 or more) in digits and small letters."""
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
        if not number:
            return digits


def drawn_log(below: Callable[[int], int]) -> str:
    """The name of a new log; *below* draws a number below the one it is given."""
    return "".join(base36(below(36)) for _ in range(LOG_CHARS))


NAME_RULE = "1 to 16 small letters, digits, - or _"
"""What `is_name` asks for, in words."""


def is_name(text: str) -> bool:
    """Whether *text* may name a log or a coordinator (`NAME_RULE`)."""
    return _NAME.fullmatch(text) is not None


class Epoch(NamedTuple):
    """One run of one coordinator, as one log knows it."""

    log: str
    coordinator: str
    number: int

    @property
    def prefix(self) -> str:
        """What the names of all transactions of this epoch begin with."""
        return _prefix(self.log, self.coordinator, self.number)

    def name(self, sequence: int) -> str:
        """``str(Gid(...))`` of one of its transactions."""
        return _prefix(self.log, self.coordinator, self.number) + base36(sequence)


class Gid(NamedTuple):
    """The name of one global transaction."""

    log: str
    coordinator: str
    epoch: int
    sequence: int

    @override
    def __str__(self) -> str:
        return _prefix(self.log, self.coordinator, self.epoch) + base36(self.sequence)


@lru_cache(maxsize=64)
def _prefix(log: str, coordinator: str, epoch: int) -> str:
    return f"{FORMAT}.{log}.{coordinator}.{base36(epoch)}."


def parse_gid(text: str) -> tuple[Gid, str] | None:
    """The transaction that *text* names, and what follows it (a branch, or nothing); None if it is not one of ours."""
    found = _GID.fullmatch(text)
    if found is None:
        return None
    log, coordinator, epoch, sequence, rest = found.groups()
    return Gid(log, coordinator, int(epoch, 36), int(sequence, 36)), rest or ""


def parse_epoch(text: str) -> Epoch | None:
    """The epoch of *text*: a transaction's name, as sessions carry it, or an epoch's prefix."""
    found = parse_gid(".".join((*text.split(".")[:4], "0")))
    return Epoch(found[0].log, found[0].coordinator, found[0].epoch) if found else None
