"""A deliberately dumb store: one list of everything that ever happened, searched from the start each time.

It shares nothing with `troth.kv` but the request and result structs.
"""

import copy
from dataclasses import dataclass, field

from troth.kv.requests import (
    Alarm,
    AlarmMember,
    AlarmResult,
    AlarmType,
    Command,
    Compact,
    CompactResult,
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    DeleteRangeResult,
    Failure,
    KeyValue,
    LeaseGrant,
    LeaseGrantResult,
    LeaseRevoke,
    LeaseRevokeResult,
    Put,
    PutResult,
    Range,
    RangeResult,
    Result,
    SortOrder,
    SortTarget,
    Txn,
    TxnResult,
)

VERSION_OVERHEAD = 192
LEASE_OVERHEAD = 256


class Refused(Exception):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


FUTURE = ("future_revision", "etcdserver: mvcc: required revision is a future revision")
COMPACTED = ("compacted", "etcdserver: mvcc: required revision has been compacted")
EMPTY_KEY = ("invalid", "etcdserver: key is not provided")
DUPLICATE = ("invalid", "etcdserver: duplicate key given in txn request")
NO_SPACE = ("quota", "etcdserver: mvcc: database space exceeded")
NO_LEASE = ("lease_not_found", "etcdserver: requested lease not found")


def within(key: bytes, start: bytes, range_end: bytes) -> bool:
    if not range_end:
        return key == start
    return key >= start and (range_end == b"\0" or key < range_end)


@dataclass
class Twin:
    quota: int = 1 << 40
    ops_max: int = 128
    revision: int = 1
    compact_revision: int = 0
    log: list[KeyValue] = field(default_factory=list)
    leases: dict[int, int] = field(default_factory=dict)
    alarms: set[tuple[int, AlarmType]] = field(default_factory=set)

    # ---- questions ------------------------------------------------------------------------------------------

    def state(self, revision: int) -> dict[bytes, KeyValue]:
        live: dict[bytes, KeyValue] = {}
        for kv in self.log:
            if kv.mod_revision <= revision:
                live.pop(kv.key, None)
                if kv.version:
                    live[kv.key] = kv
        return dict(sorted(live.items()))

    def now(self) -> dict[bytes, KeyValue]:
        return self.state(1 << 60)

    def replaced_by(self, place: int) -> KeyValue | None:
        """What the log entry at *place* put an end to."""
        for kv in reversed(self.log[:place]):
            if kv.key == self.log[place].key and kv.mod_revision < self.log[place].mod_revision:
                return kv if kv.version else None
        return None

    def retained(self) -> list[KeyValue]:
        """All versions that are not garbage, and tombstones at the compact revision, which still are told."""
        kept = []
        for place, kv in enumerate(self.log):
            after = [later for later in self.log[place + 1 :] if later.key == kv.key]
            gone = bool(after) and after[0].mod_revision <= self.compact_revision
            if kv.mod_revision >= self.compact_revision or (kv.version and not gone):
                kept.append(kv)
        return kept

    def size(self) -> int:
        total = len(self.leases) * LEASE_OVERHEAD
        for place, kv in enumerate(self.log):
            after = [later for later in self.log[place + 1 :] if later.key == kv.key]
            ended = after[0].mod_revision if after else 1 << 60
            if not kv.version:
                ended = kv.mod_revision
            if ended > self.compact_revision:
                total += len(kv.key) + len(kv.value) + VERSION_OVERHEAD
        return total

    def keys_of(self, lease: int) -> list[bytes]:
        return [kv.key for kv in self.now().values() if kv.lease == lease]

    def range(self, request: Range) -> RangeResult | Failure:
        try:
            self.check(request)
            return self.read(request, self.revision)
        except Refused as refused:
            return self.failure(refused)

    def check(self, request: Range) -> None:
        if not request.key:
            raise Refused(*EMPTY_KEY)
        self.check_revision(request.revision)

    def check_revision(self, revision: int) -> None:
        if revision > self.revision:
            raise Refused(*FUTURE)
        if 0 < revision < self.compact_revision:
            raise Refused(*COMPACTED)

    def read(self, request: Range, header: int) -> RangeResult:
        state = self.state(request.revision) if request.revision > 0 else self.now()
        found = [kv for kv in state.values() if within(kv.key, request.key, request.range_end)]
        count = len(found)
        if request.count_only:
            return RangeResult(header, [], count)
        if request.min_mod_revision:
            found = [kv for kv in found if kv.mod_revision >= request.min_mod_revision]
        if request.max_mod_revision:
            found = [kv for kv in found if kv.mod_revision <= request.max_mod_revision]
        if request.min_create_revision:
            found = [kv for kv in found if kv.create_revision >= request.min_create_revision]
        if request.max_create_revision:
            found = [kv for kv in found if kv.create_revision <= request.max_create_revision]
        fields = {
            SortTarget.KEY: "key",
            SortTarget.VERSION: "version",
            SortTarget.CREATE: "create_revision",
            SortTarget.MOD: "mod_revision",
            SortTarget.VALUE: "value",
        }
        name = fields[request.sort_target]
        # An insertion sort: what is equal stays in key order.
        ordered: list[KeyValue] = []
        for kv in found:
            place = len(ordered)
            while place and (
                getattr(ordered[place - 1], name) < getattr(kv, name)
                if request.sort_order == SortOrder.DESCEND
                else getattr(ordered[place - 1], name) > getattr(kv, name)
            ):
                place -= 1
            ordered.insert(place, kv)
        more = 0 < request.limit < len(ordered)
        if more:
            ordered = ordered[: request.limit]
        if request.keys_only:
            ordered = [
                KeyValue(kv.key, kv.create_revision, kv.mod_revision, kv.version, b"", kv.lease) for kv in ordered
            ]
        return RangeResult(header, ordered, count, more)

    def failure(self, refused: Refused) -> Failure:
        return Failure(refused.code, refused.text, self.revision, self.compact_revision)

    # ---- changes --------------------------------------------------------------------------------------------

    def apply(self, command: Command) -> Result:
        before = copy.deepcopy(self.__dict__)
        try:
            result = self.do(command)
        except Refused as refused:
            if refused.args[0] == NO_SPACE[1]:
                before["alarms"] = self.alarms
            self.__dict__.update(before)
            return self.failure(refused)
        self.revision = max([self.revision, *(kv.mod_revision for kv in self.log)])
        return result

    def do(self, command: Command) -> Result:
        match command:
            case Put():
                self.check_put(command)
                self.take_space(self.one_cost(command))
                self.check_lease(command)
                self.check_key(command)
                return self.put(command)
            case DeleteRange():
                if not command.key:
                    raise Refused(*EMPTY_KEY)
                return self.delete(command)
            case Txn():
                self.check_txn(command, self.ops_max)
                for branch in (command.success, command.failure):
                    self.check_duplicates(list(branch))
                if self.has_put(command):
                    self.take_space(self.put_cost(command))
                plan = self.plan(command)
                for operation in self.flat(plan):
                    if isinstance(operation, Put):
                        self.check_key(operation)
                        self.check_lease(operation)
                for operation in self.flat(plan):
                    if isinstance(operation, Range):
                        self.check_revision(operation.revision)
                return self.run(plan, nested=False)
            case LeaseGrant():
                if any(alarm == AlarmType.NOSPACE for _, alarm in self.alarms):
                    raise Refused(*NO_SPACE)
                if command.ttl_s > 9_000_000_000:
                    raise Refused("invalid", "etcdserver: too large lease TTL")
                self.take_space(LEASE_OVERHEAD)
                if command.id in self.leases:
                    raise Refused("lease_exists", "etcdserver: lease already exists")
                self.leases[command.id] = max(2, command.ttl_s)
                return LeaseGrantResult(self.revision, command.id, max(2, command.ttl_s))
            case LeaseRevoke():
                if command.id not in self.leases:
                    raise Refused(*NO_LEASE)
                new = self.revision + 1
                keys = self.keys_of(command.id)
                for key in keys:
                    self.log.append(KeyValue(key, 0, new, 0, b""))
                del self.leases[command.id]
                return LeaseRevokeResult(new if keys else self.revision)
            case Compact():
                if command.revision <= self.compact_revision:
                    raise Refused(*COMPACTED)
                if command.revision > self.revision:
                    raise Refused(*FUTURE)
                self.compact_revision = command.revision
                return CompactResult(self.revision)
            case Alarm():
                member = (command.member, command.alarm)
                if command.activate and command.alarm != AlarmType.NONE:
                    self.alarms.add(member)
                elif not command.activate and member in self.alarms:
                    self.alarms.remove(member)
                else:
                    return AlarmResult(self.revision, [])
                return AlarmResult(self.revision, [AlarmMember(*member)])

    def take_space(self, cost: int) -> None:
        if not any(alarm == AlarmType.NOSPACE for _, alarm in self.alarms):
            if self.size() + cost <= self.quota:
                return
            self.alarms = self.alarms | {(0, AlarmType.NOSPACE)}
        raise Refused(*NO_SPACE)

    def check_put(self, put: Put) -> None:
        if not put.key:
            raise Refused(*EMPTY_KEY)
        if put.ignore_value and put.value:
            raise Refused("invalid", "etcdserver: value is provided")
        if put.ignore_lease and put.lease:
            raise Refused("invalid", "etcdserver: lease is provided")

    def check_key(self, put: Put) -> None:
        if (put.ignore_value or put.ignore_lease) and put.key not in self.now():
            raise Refused("key_not_found", "etcdserver: key not found")

    def check_lease(self, put: Put) -> None:
        if put.lease and put.lease not in self.leases:
            raise Refused(*NO_LEASE)

    def put(self, put: Put) -> PutResult:
        old = self.now().get(put.key)
        new = self.revision + 1
        value = old.value if old and put.ignore_value else put.value
        lease = old.lease if old and put.ignore_lease else put.lease
        if old:
            self.log.append(KeyValue(put.key, old.create_revision, new, old.version + 1, value, lease))
        else:
            self.log.append(KeyValue(put.key, new, new, 1, value, lease))
        return PutResult(new, old if put.prev_kv else None)

    def delete(self, request: DeleteRange) -> DeleteRangeResult:
        new = self.revision + 1
        found = [kv for kv in self.now().values() if within(kv.key, request.key, request.range_end)]
        self.log.extend(KeyValue(kv.key, 0, new, 0, b"") for kv in found)
        return DeleteRangeResult(self.header(), len(found), found if request.prev_kv else [])

    def header(self) -> int:
        """The new revision if this command has written already."""
        return max([self.revision, *(kv.mod_revision for kv in self.log)])

    # ---- transactions ---------------------------------------------------------------------------------------

    def check_txn(self, txn: Txn, ops_max: int) -> None:
        longest = max(len(txn.compare), len(txn.success), len(txn.failure))
        if longest > ops_max:
            raise Refused("invalid", "etcdserver: too many operations in txn request")
        if any(not compare.key for compare in txn.compare):
            raise Refused(*EMPTY_KEY)
        for operation in txn.success + txn.failure:
            if isinstance(operation, Txn):
                self.check_txn(operation, ops_max - longest)
            elif isinstance(operation, Put):
                self.check_put(operation)
            elif not operation.key:
                raise Refused(*EMPTY_KEY)

    def check_duplicates(self, branch: list) -> tuple[list[bytes], list[DeleteRange]]:
        deletes = [operation for operation in branch if isinstance(operation, DeleteRange)]
        puts: list[bytes] = []
        for operation in branch:
            if isinstance(operation, Txn):
                one = self.check_duplicates(list(operation.success))
                other = self.check_duplicates(list(operation.failure))
                for key in one[0] + other[0]:
                    if key in puts or any(within(key, gone.key, gone.range_end) for gone in deletes):
                        raise Refused(*DUPLICATE)
                puts = puts + one[0] + other[0]
                deletes = deletes + one[1] + other[1]
        for operation in branch:
            if isinstance(operation, Put):
                if operation.key in puts or any(
                    within(operation.key, gone.key, gone.range_end) for gone in deletes
                ):
                    raise Refused(*DUPLICATE)
                puts.append(operation.key)
        return puts, deletes

    def has_put(self, txn: Txn) -> bool:
        return any(
            isinstance(operation, Put) or (isinstance(operation, Txn) and self.has_put(operation))
            for operation in txn.success + txn.failure
        )

    def one_cost(self, put: Put) -> int:
        kept = self.now().get(put.key) if put.ignore_value else None
        return VERSION_OVERHEAD + len(put.key) + len(kept.value if kept else put.value)

    def put_cost(self, txn: Txn) -> int:
        costs = []
        for branch in (txn.success, txn.failure):
            cost = 0
            for operation in branch:
                if isinstance(operation, Put):
                    cost += self.one_cost(operation)
                if isinstance(operation, Txn):
                    cost += self.put_cost(operation)
            costs.append(cost)
        return max(costs)

    def plan(self, txn: Txn) -> tuple[bool, list]:
        """The chosen branch, nested transactions replaced by their plans; nothing is written yet."""
        chosen = all(self.compare(compare) for compare in txn.compare)
        return chosen, [
            self.plan(operation) if isinstance(operation, Txn) else operation
            for operation in (txn.success if chosen else txn.failure)
        ]

    def flat(self, plan: tuple[bool, list]) -> list:
        return [
            inner
            for operation in plan[1]
            for inner in (self.flat(operation) if isinstance(operation, tuple) else [operation])
        ]

    def compare(self, compare: Compare) -> bool:
        kvs = [kv for kv in self.now().values() if within(kv.key, compare.key, compare.range_end)]
        for kv in kvs or [None]:
            if compare.target == CompareTarget.VALUE:
                if kv is None:
                    return False
                left: object = kv.value
                right: object = compare.value
            else:
                names = {
                    CompareTarget.VERSION: "version",
                    CompareTarget.CREATE: "create_revision",
                    CompareTarget.MOD: "mod_revision",
                    CompareTarget.LEASE: "lease",
                }
                left = getattr(kv, names[compare.target]) if kv else 0
                right = compare.number
            outcome = {
                CompareResult.EQUAL: left == right,
                CompareResult.NOT_EQUAL: left != right,
                CompareResult.LESS: left < right,
                CompareResult.GREATER: left > right,
            }
            if not outcome[compare.result]:
                return False
        return True

    def run(self, plan: tuple[bool, list], *, nested: bool) -> TxnResult:
        responses = []
        for operation in plan[1]:
            if isinstance(operation, tuple):
                responses.append(self.run(operation, nested=True))
            elif isinstance(operation, Put):
                responses.append(self.put(operation))
            elif isinstance(operation, Range):
                responses.append(self.read(operation, self.header()))
            else:
                responses.append(self.delete(operation))
        return TxnResult(0 if nested else self.header(), plan[0], responses)
