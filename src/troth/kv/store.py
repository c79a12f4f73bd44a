"""The replicated state machine: etcd's key-value store, applied command by command.

`Store.apply_batch` is the only way in for changes. It is deterministic: the same commands in the same order give
the same state and the same results on every replica, whatever was read, watched or snapshotted in between. A bad
request is a `Failure` among the results, never an exception, and has changed nothing, but for one case: the put
that would pass the space quota raises the NOSPACE alarm.

The parameters of a Store are part of the machine: every replica must be made with the same ones.

What can be asked of it stands in state.py. Time is not here: leases end when a LeaseRevoke comes through the log;
`troth.kv.lessor` holds the leader's clock.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import assert_never

from troth.kv import refusals
from troth.kv.answers import ANSWER_BYTES_MAX, coming_bytes
from troth.kv.checks import (
    REQUEST_BYTES_MAX,
    check_command,
    check_put,
    check_txn,
    payload_bytes,
    put_cost_bytes,
    txn_cost_bytes,
)
from troth.kv.keyspace import MARK_INTERVAL, VERSION_OVERHEAD_BYTES
from troth.kv.preparing import Preparations
from troth.kv.requests import (
    Alarm,
    AlarmMember,
    AlarmResult,
    AlarmType,
    Command,
    Compact,
    CompactResult,
    DeleteRange,
    DeleteRangeResult,
    Failure,
    KeyValue,
    LeaseGrant,
    LeaseGrantResult,
    LeaseRevoke,
    LeaseRevokeResult,
    Operation,
    Put,
    PutResult,
    Result,
    Txn,
    TxnResult,
)
from troth.kv.snapshot import load_snapshot
from troth.kv.state import LEASE_OVERHEAD_BYTES, StoreState
from troth.kv.txn import decide, keys_touched
from troth.kv.writer import Writer

QUOTA_BYTES_DEFAULT = 2 << 30
TXN_KEYS_MAX = 500_000

_SCAVENGE_VERSIONS_PER_COMMAND = 4
_SCAVENGE_VERSIONS_PER_BATCH = 64


class Store(StoreState):
    """etcd's data model in memory: revisions, ranges, transactions, leases, compaction, quota.

    Args:
        quota_bytes: bound on `db_size_bytes`; a write that would pass it is refused and raises the alarm.
        lease_min_ttl_s: shorter leases are raised to this.
        txn_ops_max: bound on comparisons and on operations of a transaction, each.
        request_bytes_max: bound that `validate` puts on one request (`apply` does not).
        answer_bytes_max: bound on the keys and values in all answers to one batch.
        txn_keys_max: bound on the keys that a transaction looks at: it is done in one piece, with nothing beside it.
    """

    def __init__(
        self,
        *,
        quota_bytes: int = QUOTA_BYTES_DEFAULT,
        lease_min_ttl_s: int = 2,
        txn_ops_max: int = 128,
        request_bytes_max: int = REQUEST_BYTES_MAX,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
        txn_keys_max: int = TXN_KEYS_MAX,
    ) -> None:
        super().__init__()
        self._writer = Writer(self.space, self.lease_table)
        self._full = False
        self._quota_bytes = quota_bytes
        self._lease_min_ttl_s = lease_min_ttl_s
        self._txn_ops_max = txn_ops_max
        self._request_bytes_max = request_bytes_max
        self._answer_bytes_max = answer_bytes_max
        self._txn_keys_max = txn_keys_max
        self._answer_bytes = 0
        """What the present batch's answers hold so far, plain ones left aside."""
        self._at = 0
        """Where in the log the present batch stands."""
        self._preparations = Preparations(self.space, self.lease_table)

    @property
    def quota_bytes(self) -> int:
        """The bound on `db_size_bytes`."""
        return self._quota_bytes

    # ---- checks ----------------------------------------------------------------------------------------------

    def validate(self, command: Command) -> Failure | None:
        """What is wrong with *command* whatever the data: for use before it enters the log."""
        failure = check_command(command, self._txn_ops_max)
        if failure is None and payload_bytes(command) > self._request_bytes_max:
            failure = refusals.REQUEST_TOO_LARGE
        return None if failure is None else self._refuse(failure)

    def prepare(self, commands: Iterable[Command]) -> Iterator[None] | None:
        """Before *commands* are applied: the steps of work to be done first, so that applying does not take long.

        None: there is nothing to prepare. Between two steps nothing may be applied; anything may be read. What is
        applied afterwards has the same outcome whether or not this was done.
        """
        return self._preparations.begin(commands)

    def drop_prepared(self) -> None:
        """What was prepared for is over; it may not have been applied at all."""
        self._preparations.drop()

    # ---- changes ---------------------------------------------------------------------------------------------

    def apply(self, command: Command) -> Result:
        """Apply one command. For several at hand `apply_batch` is faster."""
        return self.apply_batch((command,))[0]

    def apply_batch(self, commands: Sequence[Command], at: int = 0) -> list[Result]:
        """Apply *commands*, which stand in the log at index *at* (0: in none), in order; so stand the results."""
        # This loop carries nearly all the load of a cluster, so the plain put (no lease, no options, room left) is
        # written out here: KeySpace.put and commit, inlined, with everything in locals. All else goes to _apply.
        space = self.space
        index = space.index
        index_get = index.get
        log_append = space.log.append
        moved = space.moved
        results: list[Result] = []
        answer = results.append
        self._answer_bytes = 0
        self._at = at
        room_bytes = self._room_bytes()
        for command in commands:
            if (
                type(command) is not Put
                or command.lease
                or command.prev_kv
                or command.ignore_value
                or command.ignore_lease
            ):
                answer(self._apply(command))
                room_bytes = self._room_bytes()
                continue
            key = command.key
            value = command.value
            cost_bytes = len(key) + len(value) + VERSION_OVERHEAD_BYTES
            if cost_bytes > room_bytes or not key:
                answer(self._apply(command))
                room_bytes = self._room_bytes()
                continue
            versions = index_get(key)
            if versions is None:
                revision = space.revision + 1
                version = KeyValue(key, revision, revision, 1, value)
                index[key] = version
                moved[key] = None
            else:
                newest = versions[-1] if isinstance(versions, list) else versions
                if newest.lease:
                    answer(self._apply(command))
                    room_bytes = self._room_bytes()
                    continue
                revision = space.revision + 1
                if newest.version:
                    version = KeyValue(newest.key, newest.create_revision, revision, newest.version + 1, value)
                    space.superseded_bytes += len(key) + len(newest.value) + VERSION_OVERHEAD_BYTES
                else:
                    version = KeyValue(newest.key, revision, revision, 1, value)
                    moved[key] = None
                if isinstance(versions, list):
                    versions.append(version)
                else:
                    index[key] = [versions, version]
            log_append(version)
            room_bytes -= cost_bytes
            space.size_bytes += cost_bytes
            space.revision = revision
            if not revision & (MARK_INTERVAL - 1):
                space.marks.append((revision, space.superseded_bytes))
            answer(PutResult(revision))
        if self.has_garbage:
            space.scavenge(_SCAVENGE_VERSIONS_PER_BATCH + _SCAVENGE_VERSIONS_PER_COMMAND * len(commands))
        return results

    @property
    def has_garbage(self) -> bool:
        """Whether there is something for `scavenge`, now or once nobody reads the past."""
        return self.space.scavenged_revision < self.space.compact_revision

    def scavenge(self, versions_max: int = 4096) -> bool:
        """Free memory that compaction has set free, in a bounded step; for idle moments. True: there is more.

        Applying does some of it along the way. Nothing observable depends on when it is done.
        """
        return self.space.scavenge(versions_max)

    def _room_bytes(self) -> int:
        """What may still be written before the quota is passed; nothing under a NOSPACE alarm."""
        if self._full:
            return 0
        # As `db_size_bytes`, which would be three calls for every batch.
        return self._quota_bytes - self.space.size_bytes - len(self.lease_table.ttl_s) * LEASE_OVERHEAD_BYTES

    def _set_alarms(self, alarms: Iterable[tuple[int, AlarmType]]) -> None:
        self.alarms_raised = frozenset(alarms)
        self._full = any(alarm == AlarmType.NOSPACE for _, alarm in self.alarms_raised)

    def _apply(self, command: Command) -> Result:
        match command:
            case Put():
                result: Result = self._put_alone(command)
            case DeleteRange():
                result = self._delete_alone(command)
            case Txn():
                result = self._txn(command)
            case LeaseGrant():
                result = self._grant(command)
            case LeaseRevoke():
                result = self._revoke(command)
            case Compact():
                result = self._compact(command)
            case Alarm():
                result = self._alarm(command)
            case _:
                assert_never(command)
        return result

    def _put_alone(self, put: Put) -> PutResult | Failure:
        failure = (
            check_put(put) or self._take_space(put_cost_bytes(self.space, put)) or self._writer.check_put(put)
        )
        if failure is None and put.prev_kv:
            failure = self._take_answer((put,))
        if failure is not None:
            return self._refuse(failure)
        revision = self.space.revision + 1
        result = self._writer.put(put, revision)
        self.space.commit(revision)
        return result

    def _delete_alone(self, request: DeleteRange) -> DeleteRangeResult | Failure:
        if not request.key:
            return self._refuse(refusals.EMPTY_KEY)
        failure = self._take_answer((request,)) if request.prev_kv else None
        if failure is not None:
            return self._refuse(failure)
        space = self.space
        ready = self._preparations.take(request)
        if ready is None:
            result = self._writer.delete(request, space.revision + 1)
        else:
            result = self._writer.delete_ready(request, ready)
        if not result.deleted:
            return DeleteRangeResult(space.revision, 0)
        space.commit(result.revision)
        return result

    def _txn(self, txn: Txn) -> TxnResult | Failure:
        failure = check_txn(txn, self._txn_ops_max)
        cost_bytes = 0 if failure is not None else txn_cost_bytes(self.space, txn)
        if cost_bytes:
            failure = self._take_space(cost_bytes)
        if failure is not None:
            return self._refuse(failure)
        space = self.space
        if keys_touched(space, txn, self._txn_keys_max + 1) > self._txn_keys_max:
            return self._refuse(refusals.TOUCHES_TOO_MUCH)
        path: list[bool] = []
        chosen: list[Operation] = []
        decide(space, txn, path, chosen)
        failure = self._writer.check_operations(chosen) or self._take_answer(chosen)
        if failure is not None:
            return self._refuse(failure)
        revision = space.revision + 1
        log_length = len(space.log)
        succeeded, responses = self._writer.run(txn, iter(path), revision)
        if len(space.log) > log_length:
            space.commit(revision)
        return TxnResult(space.revision, succeeded, responses)

    def _take_space(self, cost_bytes: int) -> Failure | None:
        """Refuse what the quota has no room for, and raise the alarm that refuses all that comes after it."""
        if self._full:
            return refusals.NO_SPACE
        if self.db_size_bytes + cost_bytes > self._quota_bytes:
            self._set_alarms({*self.alarms_raised, (0, AlarmType.NOSPACE)})
            return refusals.NO_SPACE
        return None

    def _take_answer(self, operations: Sequence[Operation]) -> Failure | None:
        """Refuse, before it is done, what would be answered with more than an answer may hold."""
        bytes_max = self._answer_bytes_max
        coming = coming_bytes(self.space, operations, bytes_max)
        if coming > bytes_max:
            return refusals.ANSWER_TOO_LARGE
        if self._answer_bytes + coming > bytes_max:
            return refusals.ANSWERS_TOO_LARGE
        self._answer_bytes += coming
        return None

    def _grant(self, grant: LeaseGrant) -> LeaseGrantResult | Failure:
        # Under the alarm nothing else is looked at, as in etcd.
        failure = refusals.NO_SPACE if self._full else check_command(grant, self._txn_ops_max)
        failure = failure or self._take_space(LEASE_OVERHEAD_BYTES)
        if failure is None and grant.id in self.lease_table:
            failure = refusals.LEASE_EXISTS
        if failure is not None:
            return self._refuse(failure)
        lease = grant.id or self.lease_table.choose_id()
        ttl_s = max(grant.ttl_s, self._lease_min_ttl_s)
        self.lease_table.grant(lease, ttl_s, self._at)
        return LeaseGrantResult(self.space.revision, lease, ttl_s)

    def _revoke(self, revoke: LeaseRevoke) -> LeaseRevokeResult | Failure:
        grant = self.lease_table.grants.get(revoke.id)
        if grant is None or (grant and revoke.grant not in (0, grant)):
            return self._refuse(refusals.LEASE_NOT_FOUND)
        space = self.space
        ready = self._preparations.take(revoke)
        if ready is not None:
            self._writer.delete_now(ready)
            space.commit(ready.revision)
        elif keys := self.lease_table.keys(revoke.id):
            revision = space.revision + 1
            versions = [version for key in keys if (version := space.get(key)) is not None]
            self._writer.delete_versions(versions, revision)
            space.commit(revision)
        self.lease_table.revoke(revoke.id)
        return LeaseRevokeResult(space.revision)

    def _compact(self, compact: Compact) -> CompactResult | Failure:
        space = self.space
        if compact.revision <= space.compact_revision:
            return self._refuse(refusals.COMPACTED)
        if compact.revision > space.revision:
            return self._refuse(refusals.FUTURE_REVISION)
        space.compact(compact.revision)
        return CompactResult(space.revision)

    def _alarm(self, request: Alarm) -> AlarmResult:
        alarm = (request.member, request.alarm)
        touched: list[AlarmMember] = []
        if request.activate:
            if request.alarm != AlarmType.NONE:
                self._set_alarms({*self.alarms_raised, alarm})
                touched.append(AlarmMember(*alarm))
        elif alarm in self.alarms_raised:
            self._set_alarms(self.alarms_raised - {alarm})
            touched.append(AlarmMember(*alarm))
        return AlarmResult(self.space.revision, touched)

    def bump_revision(self, by: int) -> None:
        """Go on *by* revisions later, all before compacted: only for a state that no cluster has yet."""
        self.space.commit(self.space.revision + by)
        self.space.compact(self.space.revision)

    # ---- snapshots -------------------------------------------------------------------------------------------

    @classmethod
    def restore(cls, chunks: Iterable[bytes]) -> "Store":
        """The store that a snapshot was taken of, with the parameters that are usual.

        Raises:
            DecodeError: these bytes are not a whole snapshot.
        """
        store = cls()
        for _ in store.load(chunks):
            pass
        return store

    def load(self, chunks: Iterable[bytes]) -> Iterator[None]:
        """Become what a snapshot was taken of, in short steps; only for a store that is new. It is whole after the last
        one. The bytes may be cut into chunks anywhere.

        Raises:
            DecodeError: these bytes are not a whole snapshot.
        """
        alarms = yield from load_snapshot(chunks, self.space, self.lease_table)
        self._set_alarms((raised.member, raised.alarm) for raised in alarms)
