"""What an engine's rules want done, until the driver fetches it."""

from dataclasses import dataclass, field

from troth.core.interface import (
    NO_EFFECTS,
    Effects,
    Entry,
    Membership,
    Persist,
    ReadState,
    Send,
    SnapshotMeta,
    Trace,
)
from troth.ids import NodeId


@dataclass(slots=True)
class Outbox:
    """The parts of `Effects` that gather between two calls; fields are named as in `Effects`."""

    send: list[Send] = field(default_factory=list)
    after_persist: list[Send] = field(default_factory=list)
    reads: list[ReadState] = field(default_factory=list)
    reads_refused: list[int] = field(default_factory=list)
    snapshots_wanted: list[NodeId] = field(default_factory=list)
    trace: list[Trace] = field(default_factory=list)
    install: SnapshotMeta | None = None
    membership: Membership | None = None

    def take(self, persist: Persist | None, committed: tuple[Entry, ...], *, more_committed: bool) -> Effects:
        """Everything in it, together with what was worked out now; it is empty afterwards."""
        if not (
            persist
            or committed
            or self.send
            or self.after_persist
            or self.reads
            or self.reads_refused
            or self.snapshots_wanted
            or self.trace
            or self.membership
        ):
            return NO_EFFECTS
        effects = Effects(
            send=tuple(self.send),
            persist=persist,
            after_persist=tuple(self.after_persist),
            committed=committed,
            more_committed=more_committed,
            install=self.install,
            reads=tuple(self.reads),
            reads_refused=tuple(self.reads_refused),
            snapshots_wanted=tuple(self.snapshots_wanted),
            membership=self.membership,
            trace=tuple(self.trace),
        )
        for part in (
            *(self.send, self.after_persist, self.reads, self.reads_refused),
            *(self.snapshots_wanted, self.trace),
        ):
            if part:
                part.clear()
        self.install = self.membership = None
        return effects
