"""What one pass of recovery has seen and done."""

from dataclasses import dataclass, field

from sqlalchemy import exc

from troth.errors import ProtocolError, RequestError, StorageError

UNREACHABLE = (exc.SQLAlchemyError, RequestError, ProtocolError, StorageError, OSError)
"""What a participant or a log raises when it cannot be asked now."""


@dataclass
class Report:
    """What one pass has seen and done."""

    committed: list[str] = field(default_factory=list)
    """Branches that this pass has committed."""
    proved: list[str] = field(default_factory=list)
    """Branches of a commit that were not there any more, which somebody else must have committed. They are asked about
    in each pass until all others of their transaction are done."""
    rolled_back: list[str] = field(default_factory=list)
    heuristic: list[str] = field(default_factory=list)
    """Branches that somebody had finished against the decision, and that were not known as such before."""
    orphans: list[str] = field(default_factory=list)
    """Branches of another log, or of one that has forgotten them: not touched. `troth tx list` shows them."""
    left: list[str] = field(default_factory=list)
    """Branches whose owner lives, or whose log or database cannot be reached."""
    unreachable: dict[str, str] = field(default_factory=dict)
    """Participant (or "log of" a coordinator) -> why it could not be asked, or did not do what it was told."""
    sessions_ended: int = 0
    """Database sessions of dead coordinators that were ended."""

    @property
    def in_doubt(self) -> int:
        """Branches that are still prepared, or may be, and are not orphans."""
        return len(self.left)
