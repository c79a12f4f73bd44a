"""The consistency models: asked for by a client, served by the store, checked by `troth.verify`, under one name.

`MODELS` is a partial order: ``a.implies`` names the models that every history of *a* also satisfies. Sequential,
causal, PRAM and the session guarantees do not imply eventual: a replica that never hears of the others keeps them, and
does not converge (troth's replicas do both). `ReadLevel` is what travels with a read: a model plus the numbers that
some models need.

Sources: Herlihy & Wing 1990 (linearizability); Lamport 1979 (sequential); Terry et al. 1994 (session
guarantees); Ahamad et al. 1995 (causal); Lipton & Sandberg 1988 (PRAM); Terry et al. 2013 (bounded staleness);
Vogels 2009 (eventual); Bailis et al. 2014, "Highly Available Transactions" (availability classes).
"""

from dataclasses import dataclass
from enum import Enum, IntEnum

import msgspec
from typing_extensions import override

from troth.errors import UsageError


class Availability(Enum):
    """What a model costs under a network partition (Bailis et al. 2014)."""

    UNAVAILABLE = "a minority partition cannot serve it"
    STICKY = "every reachable replica serves it, if the client stays with the replica it has seen"
    TOTAL = "every reachable replica serves it"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsistencyModel:
    """One consistency model: what it promises, who defined it, what follows from it, what it costs."""

    name: str
    definition: str
    source: str
    implies: tuple[str, ...]
    availability: Availability


_ALL = (
    ConsistencyModel(
        name="linearizable",
        definition="Every operation takes effect at one instant between its call and its return.",
        source="Herlihy & Wing, Linearizability, TOPLAS 1990, section 2",
        implies=("sequential", "bounded"),
        availability=Availability.UNAVAILABLE,
    ),
    ConsistencyModel(
        name="sequential",
        definition="All operations fit one order that keeps each process's own order.",
        source="Lamport, How to Make a Multiprocessor Computer, IEEE ToC 1979",
        implies=("causal",),
        availability=Availability.UNAVAILABLE,
    ),
    ConsistencyModel(
        name="causal",
        definition="Operations that may have caused one another are seen by everybody in that order.",
        source="Ahamad et al., Causal Memory, Distributed Computing 1995",
        implies=("session", "pram", "writes-follow-reads"),
        availability=Availability.STICKY,
    ),
    ConsistencyModel(
        name="session",
        definition="A session reads its own writes and never reads an older state than it has read before.",
        source="Terry et al., Session Guarantees for Weakly Consistent Replicated Data, PDIS 1994",
        implies=("read-your-writes", "monotonic-reads"),
        availability=Availability.STICKY,
    ),
    ConsistencyModel(
        name="pram",
        definition="The writes of each process are seen by everybody in the order that process made them.",
        source="Lipton & Sandberg, PRAM, Princeton TR-180-88, 1988",
        implies=("read-your-writes", "monotonic-reads", "monotonic-writes"),
        availability=Availability.STICKY,
    ),
    ConsistencyModel(
        name="read-your-writes",
        definition="A read sees every write made earlier in its session.",
        source="Terry et al. 1994, section 3",
        implies=("weak",),
        availability=Availability.STICKY,
    ),
    ConsistencyModel(
        name="monotonic-reads",
        definition="A read sees no older state than an earlier read of its session.",
        source="Terry et al. 1994, section 3",
        implies=("weak",),
        availability=Availability.TOTAL,
    ),
    ConsistencyModel(
        name="monotonic-writes",
        definition="The writes of a session are applied everywhere in the order they were made.",
        source="Terry et al. 1994, section 3",
        implies=("weak",),
        availability=Availability.TOTAL,
    ),
    ConsistencyModel(
        name="writes-follow-reads",
        definition="A write is applied everywhere after the writes its session had read before it.",
        source="Terry et al. 1994, section 3",
        implies=("weak",),
        availability=Availability.TOTAL,
    ),
    ConsistencyModel(
        name="bounded",
        definition="A read is at most a stated time, or a stated number of revisions, behind the newest write.",
        source="Terry et al., Replicated Data Consistency Explained Through Baseball, CACM 2013",
        implies=("eventual",),
        availability=Availability.UNAVAILABLE,
    ),
    ConsistencyModel(
        name="eventual",
        definition="Without new writes, all replicas come to answer the same; until then any state may be seen.",
        source="Vogels, Eventually Consistent, CACM 2009",
        implies=("weak",),
        availability=Availability.TOTAL,
    ),
    ConsistencyModel(
        name="weak",
        definition="A read returns some value that was written; nothing is said about when, or in what order.",
        source="Vogels, Eventually Consistent, CACM 2009, client-side consistency",
        implies=(),
        availability=Availability.TOTAL,
    ),
)

MODELS: dict[str, ConsistencyModel] = {model.name: model for model in _ALL}


REVISION_MAX = (1 << 63) - 1
"""No revision is higher."""


class LevelName(IntEnum):
    """The models a read can be served under (the wire's numbers)."""

    LINEARIZABLE = 0
    SEQUENTIAL = 1
    SESSION = 2
    BOUNDED_TIME = 3
    BOUNDED_REVISIONS = 4
    EVENTUAL = 5


class ReadLevel(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a read asks for. `seen_revision` is the floor that a session (or a sequential client) brings along."""

    name: LevelName = LevelName.LINEARIZABLE
    seen_revision: int = 0
    staleness_ms_max: int = 0
    revisions_behind_max: int = 0

    @property
    def model(self) -> ConsistencyModel:
        """The consistency model that this level is an instance of."""
        return MODELS[_MODEL_OF[self.name]]

    @override
    def __str__(self) -> str:
        match self.name:
            case LevelName.BOUNDED_TIME:
                return f"bounded(seconds={self.staleness_ms_max / 1000:g})"
            case LevelName.BOUNDED_REVISIONS:
                return f"bounded(revisions={self.revisions_behind_max})"
            case _:
                return _MODEL_OF[self.name]


_MODEL_OF = {
    LevelName.LINEARIZABLE: "linearizable",
    LevelName.SEQUENTIAL: "sequential",
    LevelName.SESSION: "session",
    LevelName.BOUNDED_TIME: "bounded",
    LevelName.BOUNDED_REVISIONS: "bounded",
    LevelName.EVENTUAL: "eventual",
}

linearizable = ReadLevel(LevelName.LINEARIZABLE)
sequential = ReadLevel(LevelName.SEQUENTIAL)
session = ReadLevel(LevelName.SESSION)
eventual = ReadLevel(LevelName.EVENTUAL)


def bounded(*, seconds: float | None = None, revisions: int | None = None) -> ReadLevel:
    """A read that is at most *seconds*, or at most *revisions*, behind.

    Raises:
        UsageError: not exactly one bound, or one that is no such number.
    """
    if (seconds is None) == (revisions is None):
        raise UsageError("bounded() takes either seconds= or revisions=, for example bounded(seconds=2)")
    if seconds is not None:
        asked: object = seconds  # callers need not check types
        if isinstance(asked, bool) or not isinstance(asked, int | float) or not 0 < asked < 1e6:
            raise UsageError(f"bounded(seconds={seconds!r}) must be a number above 0 and below a million")
        return ReadLevel(LevelName.BOUNDED_TIME, staleness_ms_max=max(1, int(seconds * 1000)))
    if type(revisions) is not int or not 0 <= revisions <= REVISION_MAX:
        raise UsageError(f"bounded(revisions={revisions!r}) must be a whole number from 0 on, below 2**63")
    return ReadLevel(LevelName.BOUNDED_REVISIONS, revisions_behind_max=revisions)


def parse_level(text: str) -> ReadLevel:
    """Read a level as people write it: ``linearizable``, ``session``, ``bounded:2s``, ``bounded:10`` (revisions).

    Raises:
        UsageError: not a level.
    """
    named = {"linearizable": linearizable, "sequential": sequential, "session": session, "eventual": eventual}
    if text in named:
        return named[text]
    kind, _, bound = text.partition(":")
    try:
        if kind == "bounded" and bound.endswith("s"):
            return bounded(seconds=float(bound[:-1]))
        if kind == "bounded":
            return bounded(revisions=int(bound))
    except ValueError:
        pass
    raise UsageError(f"no read level {text!r}; use one of {', '.join(named)}, bounded:2s, bounded:10")
