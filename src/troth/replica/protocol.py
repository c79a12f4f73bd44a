"""What clients and servers say to each other (the native protocol), as values.

A frame body is one `ClientMessage` (to a server) or one `ServerMessage` (to a client), msgpack arrays. Any number
may be outstanding; answers come in any order and name what they answer.

Writes come in batches: all that a client asked for in one turn of its loop is one `Writes`, answered by one
`Results` or refused as a whole by one `WritesRefused`. A batch is the unit of exactly-once: a retry sends the
very same batch (session, first_seq, commands) again, to any server.
"""

from typing import TypeAlias

import msgspec

from troth.core.interface import Member, MembershipChange
from troth.ids import NodeId
from troth.kv.requests import AlarmMember, Command, Event, Failure, Range, RangeResult, Result
from troth.models import LevelName, ReadLevel

WRITES_COMMANDS_MAX = 1024
WRITES_BYTES_MAX = 2 << 20
READS_REQUESTS_MAX = 1024


class _Wire(msgspec.Struct, frozen=True, array_like=True):
    pass


# ---- client to server --------------------------------------------------------------------------------------


class OpenSession(_Wire, frozen=True, tag=1):
    """Ask for a session (answer: `SessionOpened`). `nonce` is random, so that a retried open finds the first."""

    call: int
    nonce: int


class CloseSession(_Wire, frozen=True, tag=2):
    call: int
    session: int


class Writes(_Wire, frozen=True, tag=3):
    """Commands numbered ``first_seq, first_seq + 1, ...`` in *session*.

    `acked_below`: the client has the answers of all batches that start below this number, so the cluster may
    forget them. With session 0 nothing is remembered: a retry may apply twice (first_seq is then only a name).
    """

    session: int
    first_seq: int
    acked_below: int
    commands: tuple[Command, ...]


class Reads(_Wire, frozen=True, tag=4):
    """Range requests that share a level (answer: `ReadResults` or `CallRefused`)."""

    call: int
    level: ReadLevel
    requests: tuple[Range, ...]


class WatchCreate(_Wire, frozen=True, tag=5):
    """Start a watch under a number the client chose; answers are `WatchCreated`, then `WatchEvents`.

    `progress_notify`: while it is idle, tell it now and then (and after a compaction) how far it is.
    """

    watch: int
    key: bytes
    range_end: bytes = b""
    start_revision: int = 0
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False
    progress_notify: bool = False


class WatchCancel(_Wire, frozen=True, tag=6):
    watch: int


class WatchProgress(_Wire, frozen=True, tag=7):
    """Ask for a `WatchEvents` with watch -1 and no events once everything up to its revision was delivered."""


class LeaseKeepAlive(_Wire, frozen=True, tag=8):
    """Renew leases (answer: `LeaseTtls`; -1 marks one that is gone)."""

    call: int
    ids: tuple[int, ...]


class LeaseTimeToLive(_Wire, frozen=True, tag=9):
    call: int
    id: int
    keys: bool = False


class LeaseList(_Wire, frozen=True, tag=10):
    call: int


class GetStatus(_Wire, frozen=True, tag=11):
    """What this server knows, also without a leader (answer: `ServerStatus`)."""

    call: int


class ChangeMembers(_Wire, frozen=True, tag=12):
    """Start a membership change (answer: `Done` when it is complete, or `CallRefused`)."""

    call: int
    change: MembershipChange


class TransferLeadership(_Wire, frozen=True, tag=13):
    """Answer: `Done` when the other server leads. `target` 0: whoever is most up to date."""

    call: int
    target: NodeId


class HashState(_Wire, frozen=True, tag=14):
    """Ask for the hash of the state at a revision (0: now), to compare replicas (answer: `StateHash`)."""

    call: int
    revision: int = 0


class FetchSnapshot(_Wire, frozen=True, tag=15):
    """Stream the whole state at the present revision (answers: `SnapshotPart` until `last`)."""

    call: int


class Ping(_Wire, frozen=True, tag=16):
    call: int


ClientMessage: TypeAlias = (
    OpenSession
    | CloseSession
    | Writes
    | Reads
    | WatchCreate
    | WatchCancel
    | WatchProgress
    | LeaseKeepAlive
    | LeaseTimeToLive
    | LeaseList
    | GetStatus
    | ChangeMembers
    | TransferLeadership
    | HashState
    | FetchSnapshot
    | Ping
)


# ---- server to client --------------------------------------------------------------------------------------


class SessionOpened(_Wire, frozen=True, tag=1):
    call: int
    session: int


class Results(_Wire, frozen=True, tag=2):
    """The results of the batch (session, first_seq), one for each command, in order."""

    session: int
    first_seq: int
    results: list[Result]


class WritesRefused(_Wire, frozen=True, tag=3):
    """The batch (session, first_seq) got no results. `code` names a class of troth.errors, which says whether it
    may have been applied. `leader` is the client address of the leader, where known."""

    session: int
    first_seq: int
    code: str
    text: str
    leader: str = ""


class ReadResults(_Wire, frozen=True, tag=4):
    """Answers of `Reads`, in order. `level` is the level achieved; `revision` the state they were read from;
    `staleness_ms` bounds how old that state is (0: as new as the level demands; -1: unknown)."""

    call: int
    level: LevelName
    revision: int
    results: list[RangeResult | Failure]
    staleness_ms: int = 0


class CallRefused(_Wire, frozen=True, tag=5):
    """The call failed. `code` names a class of troth.errors."""

    call: int
    code: str
    text: str
    leader: str = ""


class WatchCreated(_Wire, frozen=True, tag=6):
    watch: int
    revision: int


class WatchEvents(_Wire, frozen=True, tag=7):
    """Events of whole revisions, in order; everything up to `revision` has been delivered. No events: progress."""

    watch: int
    revision: int
    events: list[Event]


class WatchCanceled(_Wire, frozen=True, tag=8):
    """The watch is over. `compact_revision` above 0: its start was compacted; begin anew from there. `code`: of the
    class in troth.errors that says why it was refused; empty if it was not."""

    watch: int
    revision: int
    compact_revision: int = 0
    reason: str = ""
    code: str = ""


class LeaseTtls(_Wire, frozen=True, tag=9):
    """Whole seconds that each lease asked for has now; -1: no such lease."""

    call: int
    ttls_s: list[int]


class LeaseView(_Wire, frozen=True, tag=10):
    """`ttl_s` -1: no such lease."""

    call: int
    id: int
    ttl_s: int
    granted_ttl_s: int
    keys: list[bytes]


class LeaseIds(_Wire, frozen=True, tag=11):
    call: int
    ids: list[int]


class PeerView(msgspec.Struct, frozen=True, array_like=True):
    """What the answering server knows of one member. `match` and `active` are known to a leader only (-1)."""

    node_id: NodeId
    member: Member
    voter: bool
    match: int = -1
    active: bool | None = None
    leader: bool = False


class ServerStatus(_Wire, frozen=True, tag=12):
    """One server's view. `survives` is how many more servers may fail; -1: there is no quorum (or none known)."""

    call: int
    node_id: NodeId
    name: str
    cluster_id: int
    version: str
    role: str
    term: int
    leader: NodeId
    revision: int
    compact_revision: int
    commit_index: int
    applied_index: int
    last_index: int
    first_index: int
    db_size_bytes: int
    survives: int
    joint: bool
    peers: list[PeerView]
    alarms: list[AlarmMember] = []
    sessions: int = 0
    leases: int = 0
    watches: int = 0
    consensus: str = "raft"
    acceptor: dict[str, int] = {}
    """Of the acceptor of registers that this server runs: `epoch`, `registers`, `tombstones`, `bytes`, ...; empty where
    there is none."""


class StateHash(_Wire, frozen=True, tag=13):
    """`applied_index` is the log position the hash was taken at (when asked for the present)."""

    call: int
    hash: int
    revision: int
    compact_revision: int
    applied_index: int


class SnapshotPart(_Wire, frozen=True, tag=14):
    call: int
    data: bytes
    last: bool


class Done(_Wire, frozen=True, tag=15):
    call: int


class LeaderChanged(_Wire, frozen=True, tag=16):
    """Pushed to every client: who leads now (client address; empty: nobody known) and in which term."""

    term: int
    node_id: NodeId
    leader: str


ServerMessage: TypeAlias = (
    SessionOpened
    | Results
    | WritesRefused
    | ReadResults
    | CallRefused
    | WatchCreated
    | WatchEvents
    | WatchCanceled
    | LeaseTtls
    | LeaseView
    | LeaseIds
    | ServerStatus
    | StateHash
    | SnapshotPart
    | Done
    | LeaderChanged
)
