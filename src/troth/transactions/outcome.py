"""How a transaction can stand."""

from enum import StrEnum


class Outcome(StrEnum):
    """How a transaction stands. `tpc.outcome(gid)` gives any of them, ``tx.outcome`` after its block the first two."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    UNRECORDED = "unrecorded"
    """No decision is in the log, and none can come any more: rolled back everywhere, unless it wrote in one database
    only, which commits without the log. Look there, or give such work a ``key=``, which is always in the log."""
    OPEN = "open"
    """Not decided; its owner may still decide."""
    FORGOTTEN = "forgotten"
    """It ended so long ago that the log does not keep its name."""
    FOREIGN = "foreign"
    """The log has never heard of it."""
