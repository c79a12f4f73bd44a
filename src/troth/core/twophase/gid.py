"""Names of global transactions and of their branches.

::

    T1.<log>.<coordinator>.<epoch>.<sequence>            the transaction: `Gid`, at most 64 bytes
    T1.<log>.<coordinator>.<epoch>.<sequence>.<branch>   one branch, as PostgreSQL is told

The log's name is drawn when the log is created, the epoch is opened in that log by one process and never again, the
sequence counts in that process: a name is never used twice. So "whose is this branch, and may its owner still
decide?" is answered by the name and the log alone, from any machine.
"""

from typing import NamedTuple

from typing_extensions import override

FORMAT = "T1"
LOG_CHARS = 8
COORDINATOR_CHARS_MAX = 16
GID_BYTES_MAX = 64
"""XA's limit of a global transaction id; PostgreSQL's is 199."""

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36(number: int) -> str:
    """*number* (0 or more) in digits and small letters."""
    digits = ""
    while True:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
        if not number:
            return digits


def is_name(text: str) -> bool:
    """Whether *text* may name a log or a coordinator: 1 to 16 small letters, digits, ``-`` and ``_``."""
    return 0 < len(text) <= COORDINATOR_CHARS_MAX and all(c in _DIGITS or c in "-_" for c in text)


class Epoch(NamedTuple):
    """One run of one coordinator, as one log knows it."""

    log: str
    coordinator: str
    number: int

    @property
    def prefix(self) -> str:
        """What the names of all transactions of this epoch begin with; also the sessions' application_name."""
        return f"{FORMAT}.{self.log}.{self.coordinator}.{base36(self.number)}."


class Gid(NamedTuple):
    """The name of one global transaction."""

    log: str
    coordinator: str
    epoch: int
    sequence: int

    @override
    def __str__(self) -> str:
        return f"{FORMAT}.{self.log}.{self.coordinator}.{base36(self.epoch)}.{base36(self.sequence)}"


def parse_gid(text: str) -> tuple[Gid, str] | None:
    """The transaction that *text* names, and what follows it (a branch, or nothing); None if it is not one of ours."""
    parts = text.split(".", 5)
    if len(parts) < 5 or parts[0] != FORMAT or not is_name(parts[1]) or not is_name(parts[2]):
        return None
    try:
        epoch, sequence = int(parts[3], 36), int(parts[4], 36)
    except ValueError:
        return None
    # int() is generous ("+1", "1_0", capitals): only what we would write ourselves is ours.
    if base36(max(epoch, 0)) != parts[3] or base36(max(sequence, 0)) != parts[4]:
        return None
    return Gid(parts[1], parts[2], epoch, sequence), parts[5] if len(parts) == 6 else ""


def parse_epoch(text: str) -> Epoch | None:
    """The epoch that a session's application_name begins with (an epoch's prefix, or a whole name)."""
    parts = text.split(".")
    if len(parts) < 4:
        return None
    found = parse_gid(".".join((*parts[:4], "0")))
    return Epoch(found[0].log, found[0].coordinator, found[0].epoch) if found else None
