"""Every error that a user of troth can meet, in one tree.

::

    TrothError
      UsageError              the caller's bug: a bad argument, an unknown address, a closed client
        AddressTaken            somebody else listens at the address that a server was told to listen at
        PreflightFailed         a database cannot take part in two-phase commit; the text says what to set
        (hashing/errors.py)     what the rings and placements of `troth.hashing` refuse: eight classes
      ProtocolError           a peer broke the rules
        DecodeError             bytes that are not a message
        WrongCluster            a server of another cluster, or a stranger to this one
          MixedClusters           (a NotApplied too) a client's addresses belong to different clusters; nothing was sent
      RequestError            a request that did not succeed
        NotApplied              definite: it has not happened and never will; retry freely
          InvalidRequest          the request itself is wrong (etcd's text in .text)
            KeyNotFound, LeaseNotFound, LeaseExists, Compacted, FutureRevision
            AnswerTooLarge          what was asked for does not fit into one answer
            WatchCompacted          a Compacted: a watch fell so far behind that its next events are gone
          NotLeader               ask .leader_hint
          Overloaded              a bounded queue is full; retry later
          Unavailable             no quorum (or no fresh enough replica) within the time allowed
          QuotaExceeded           the space quota is used up
          SessionExpired          the session of this request is gone, and the request was never sent before
          Aborted                 a transaction over several databases is rolled back in all; __cause__ says why
          AlreadyDecided          this register holds a decision, which never changes
          ChangeFailed            the caller's change function raised (its error is the cause)
          AcceptorsChanged        the set of acceptors was changed meanwhile; the text names the new one
        OutcomeUnknown          indefinite: it may have happened, or may yet; retry only with the same request id
          RequestTimeout          no answer in time
          LeadershipLost          the leader fell while the request was in its log
          TransactionInDoubt      the decision may stand or not: ask tpc.outcome(.gid), or retry under the same key
        AnswerLost              definite: it has happened, but what it answered is not kept any more
        HeuristicMixed          a database finished its branch against the decision; a person has to look
      StorageError            the disk; the process stops
        Corrupt                 bytes that were durable are not what was written; .path says where
          LogDamaged              (storage/replay.py) those of a server's log; .damage says which entries
        SyncFailed              fsync failed; never retried, since a second success proves nothing
        IdentityLost            this data directory is not this server's, or not the one that its cluster knows
          Removed                 this server was removed from its cluster
        WrongEngine             this data directory was made with another consensus engine
    InvariantViolation(AssertionError)   outside the tree: our bug; only a process's entry point catches it

A caller needs just two answers about a failed request: *did it happen?* and *what do I do?* The first is the
class (`NotApplied` or `OutcomeUnknown`), which is also what a history records (``fail`` or ``info``). The one error
after a request that did happen is `AnswerLost`; a history, which lacks the answer, records ``info`` for it.

A package has errors of its own for what it settles before a caller hears of it (`SnapshotGone` in storage, `LineLost`
in client/registers). `DatabaseFailed` (torture/databases.py) ends a trial whose database servers do not run.
"""

from collections.abc import Sequence
from typing import ClassVar, Self, TypeVar, cast

from typing_extensions import override

from troth.ids import NodeId, Revision

T = TypeVar("T")


class TrothError(Exception):
    """Root of the tree."""

    code: ClassVar[str] = "error"


class UsageError(TrothError):
    """The caller's bug: a bad argument, an unknown option, a closed client."""

    code = "usage"


class AddressTaken(UsageError):
    """Somebody else listens at the address that a server was told to listen at."""

    code = "address_taken"


class PreflightFailed(UsageError):
    """A database cannot take part in two-phase commit as it is set up.

    Attributes:
        problems: one sentence for each thing that is wrong, with what to set.
    """

    code = "preflight"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)

    @override
    def __reduce__(self) -> tuple[type[Self], tuple[tuple[str, ...]]]:
        """A copy, also in another process, is made of what this one was made of."""
        return type(self), (self.problems,)


class ProtocolError(TrothError):
    """A peer broke the rules of the protocol; its connection is closed."""

    code = "protocol"


class DecodeError(ProtocolError):
    """Bytes that are not a message."""

    code = "decode"


class WrongCluster(ProtocolError):
    """A server of another cluster, or one that this cluster does not know."""

    code = "wrong_cluster"


class RequestError(TrothError):
    """A request that did not succeed. `NotApplied` and `OutcomeUnknown` say whether it happened."""

    code = "request"


class NotApplied(RequestError):
    """Definite: the request has not taken effect and never will. Retry freely."""

    code = "not_applied"


class MixedClusters(WrongCluster, NotApplied):
    """The addresses of a client belong to different clusters, so it was not sent to any."""

    code = "mixed_clusters"


class InvalidRequest(NotApplied):
    """The request itself is wrong; sending it again will fail again. `text` is etcd's wording where it has one."""

    code = "invalid"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class KeyNotFound(InvalidRequest):
    """ignore_value or ignore_lease on a key that does not exist."""

    code = "key_not_found"


class LeaseNotFound(InvalidRequest):
    """No such lease: never granted, revoked or expired."""

    code = "lease_not_found"


class LeaseExists(InvalidRequest):
    """A lease with this id is already granted."""

    code = "lease_exists"


class Compacted(InvalidRequest):
    """The revision asked for has been compacted away; read at a newer one."""

    code = "compacted"

    def __init__(self, text: str, compact_revision: int = 0) -> None:
        super().__init__(text)
        self.compact_revision = Revision(compact_revision)


class WatchCompacted(Compacted):
    """Events that a watch had still to deliver are compacted away: read the present state, then watch from there.

    `compact_revision` is the oldest revision that can still be watched.
    """

    code = "watch_compacted"


class FutureRevision(InvalidRequest):
    """The revision asked for does not exist yet."""

    code = "future_revision"


class AnswerTooLarge(InvalidRequest):
    """What was asked for does not fit into one answer; ask for less at once. A write was not done."""

    code = "answer_too_large"


class NotLeader(NotApplied):
    """This server does not lead; `leader_hint` is who it thinks does."""

    code = "not_leader"

    def __init__(self, leader_hint: NodeId | None = None) -> None:
        known = f"try server {leader_hint:x}" if leader_hint else "no leader is known"
        super().__init__(f"not the leader; {known}")
        self.leader_hint = leader_hint


class Overloaded(NotApplied):
    """A bounded queue is full. Send less at once, or try again later."""

    code = "overloaded"


class Unavailable(NotApplied):
    """No quorum, or no replica as fresh as was asked for, within the time allowed."""

    code = "unavailable"


class QuotaExceeded(NotApplied):
    """The space quota is used up.

    In a cluster: delete, compact, or raise the quota, then disarm the alarm. Of registers: delete and collect, or give
    the acceptors a larger one.
    """

    code = "quota"


class SessionExpired(NotApplied):
    """The client's session is gone from the cluster, and this request had not been sent before."""

    code = "session_expired"


class Aborted(NotApplied):
    """A transaction over several databases is rolled back in every one of them; those that could not be told (`pending`
    of the transaction), recovery tells.

    ``__cause__`` is the database's own error, if one was the reason.

    Attributes:
        gid: the transaction's name.
        participant: where it failed; empty when no single database was the reason.
    """

    code = "aborted"

    def __init__(self, text: str, gid: str = "", participant: str = "") -> None:
        super().__init__(text)
        self.gid = gid
        self.participant = participant


class AlreadyDecided(NotApplied):
    """The register was decided by `propose`; it keeps that value for ever."""

    code = "already_decided"


class ChangeFailed(NotApplied):
    """The function given to `change` raised; `__cause__` is what it raised. The register is as it was."""

    code = "change_failed"


class AcceptorsChanged(NotApplied):
    """Somebody else has changed the set of acceptors; the text names the present one. Look again, then decide."""

    code = "acceptors_changed"


class OutcomeUnknown(RequestError):
    """Indefinite: the request may have taken effect, or may yet. Retry only with the same request id."""

    code = "outcome_unknown"


class RequestTimeout(OutcomeUnknown):
    """No answer in time."""

    code = "timeout"


class LeadershipLost(OutcomeUnknown):
    """The leader fell while the request was in its log and not yet committed."""

    code = "leadership_lost"


class AnswerLost(RequestError):
    """Definite: the request has taken effect, once, but what it answered is no longer kept: read the present state.

    It can come only after a retry: the first answer did not arrive, and so much was answered to others meanwhile that
    the cluster has given this one up.
    """

    code = "answer_lost"


class TransactionInDoubt(OutcomeUnknown):
    """The decision was handed to the log (or to the one database that decides) and was not answered.

    Do not repeat the work under a new key: ``tpc.outcome(error.gid, wait=...)`` tells how it ended, and a retry with
    the same ``key=`` is safe. Branches stay prepared until the log can be read; recovery then finishes them.
    """

    code = "in_doubt"

    def __init__(self, text: str, gid: str = "") -> None:
        super().__init__(text)
        self.gid = gid


class HeuristicMixed(RequestError):
    """A database finished its branch against the decision, so the transaction is half done. ``troth tx show GID``."""

    code = "heuristic_mixed"

    def __init__(self, text: str, gid: str = "", participant: str = "") -> None:
        super().__init__(text)
        self.gid = gid
        self.participant = participant


class StorageError(TrothError):
    """The disk failed; the process stops rather than go on with what it cannot trust."""

    code = "storage"


class Corrupt(StorageError):
    """Bytes that were durable are not what was written."""

    code = "corrupt"

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class SyncFailed(StorageError):
    """fsync failed. The kernel may have dropped the pages, so a retry that succeeds proves nothing."""

    code = "sync_failed"


class IdentityLost(StorageError):
    """This data directory is not the one that the cluster knows under this name, or not that of the server, or of the
    cluster, that the settings name."""

    code = "identity_lost"


class Removed(IdentityLost):
    """This server was removed from its cluster by a change of its members; it stops, and can not come back as it is."""

    code = "removed"


class WrongEngine(StorageError):
    """This data directory holds what another consensus engine has promised."""

    code = "wrong_engine"


class InvariantViolation(AssertionError):
    """A fact that must hold does not: our bug. Stop, keep the evidence, report it."""


def required(value: T | None, message: str, **facts: object) -> T:
    """*value*, of which it is an `invariant` that it is there."""
    invariant(value is not None, message, **facts)
    return cast(T, value)


def invariant(condition: bool, message: str, **facts: object) -> None:
    """Raise `InvariantViolation` unless *condition* holds. Unlike ``assert`` it survives ``python -O``."""
    if not condition:
        shown = ", ".join(f"{name}={value!r}" for name, value in facts.items())
        raise InvariantViolation(f"{message} ({shown})" if shown else message)
