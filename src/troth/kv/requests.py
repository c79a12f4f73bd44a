"""What can be asked of the store, and what it answers: etcd v3's requests as plain values.

Field names and meanings are etcd's (``etcdserverpb.KV``, ``Lease``). All byte strings are raw; revisions, versions
and lease ids are 64-bit integers. The structs are also the wire form (msgpack arrays, fields in the order
written here): new fields go last and carry defaults, tags are never used again.

A command changes the store and travels through the replicated log. A query only reads.
"""

from enum import IntEnum
from typing import NoReturn, TypeAlias

import msgspec

from troth.errors import UsageError


class SortOrder(IntEnum):
    NONE = 0
    ASCEND = 1
    DESCEND = 2


class SortTarget(IntEnum):
    KEY = 0
    VERSION = 1
    CREATE = 2
    MOD = 3
    VALUE = 4


class CompareTarget(IntEnum):
    VERSION = 0
    CREATE = 1
    MOD = 2
    VALUE = 3
    LEASE = 4


class CompareResult(IntEnum):
    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3


class AlarmType(IntEnum):
    NONE = 0
    NOSPACE = 1
    CORRUPT = 2

    @property
    def text(self) -> str:
        """What it means for who looks after the cluster."""
        return "the space quota is used up: reads only" if self is AlarmType.NOSPACE else "corruption found"


class KeyValue(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One version of one key. `lease` is 0 when none is attached; `version` counts from 1 since creation."""

    key: bytes
    create_revision: int
    mod_revision: int
    version: int
    value: bytes
    lease: int = 0


# ---- commands and queries ----------------------------------------------------------------------------------


class Put(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    key: bytes
    value: bytes
    lease: int = 0
    prev_kv: bool = False
    ignore_value: bool = False
    ignore_lease: bool = False


class Range(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    key: bytes
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    sort_order: SortOrder = SortOrder.NONE
    sort_target: SortTarget = SortTarget.KEY
    keys_only: bool = False
    count_only: bool = False
    min_mod_revision: int = 0
    max_mod_revision: int = 0
    min_create_revision: int = 0
    max_create_revision: int = 0


class DeleteRange(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    key: bytes
    range_end: bytes = b""
    prev_kv: bool = False


def no_truth() -> UsageError:
    """What is said to whoever asks a comparison whether it is true."""
    return UsageError(
        "a comparison has no truth value here, the cluster makes it: give each one by itself in the list of "
        "txn([...]). Python would drop all but the last of those that and, or, not or 5 < x < 9 put together"
    )


class Compare(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """True when *target* of *key* stands in *result* to the operand: `value` for VALUE, else `number`."""

    key: bytes
    target: CompareTarget = CompareTarget.VERSION
    result: CompareResult = CompareResult.EQUAL
    number: int = 0
    value: bytes = b""
    range_end: bytes = b""

    def __bool__(self) -> NoReturn:
        raise no_truth()


class Txn(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """If all of *compare* hold do *success*, else *failure*, in order, at one revision."""

    compare: tuple[Compare, ...] = ()
    success: tuple["Operation", ...] = ()
    failure: tuple["Operation", ...] = ()


Operation: TypeAlias = Put | Range | DeleteRange | Txn


class LeaseGrant(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    """`id` 0 lets the store choose; `ttl_s` is raised to the minimum the store was made with."""

    id: int
    ttl_s: int


class LeaseRevoke(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    """`grant` above 0: only the lease that was granted at this log index. Since its end was decided the id may have
    been revoked and granted anew."""

    id: int
    grant: int = 0


class Compact(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    revision: int


class Alarm(msgspec.Struct, frozen=True, array_like=True, tag=8, gc=False):
    """Raise (`activate`) or clear an alarm of member *member*."""

    activate: bool
    member: int
    alarm: AlarmType


Command: TypeAlias = Put | DeleteRange | Txn | LeaseGrant | LeaseRevoke | Compact | Alarm
"""Whatever goes through the log. A Range inside a Txn reads at the point of the log where the Txn stands."""


# ---- results -----------------------------------------------------------------------------------------------


class PutResult(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    revision: int
    prev_kv: KeyValue | None = None


class RangeResult(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """`revision` is the store's current one, also for a read at an old one; `count` ignores limit and filters."""

    revision: int
    kvs: list[KeyValue]
    count: int
    more: bool = False


class DeleteRangeResult(msgspec.Struct, frozen=True, array_like=True, tag=3, gc=False):
    revision: int
    deleted: int
    prev_kvs: list[KeyValue] = []


class TxnResult(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """`responses` stand in the order of the branch that ran."""

    revision: int
    succeeded: bool
    responses: list["OperationResult"] = []


OperationResult: TypeAlias = PutResult | RangeResult | DeleteRangeResult | TxnResult


class LeaseGrantResult(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    revision: int
    id: int
    ttl_s: int


class LeaseRevokeResult(msgspec.Struct, frozen=True, array_like=True, tag=6, gc=False):
    revision: int


class CompactResult(msgspec.Struct, frozen=True, array_like=True, tag=7, gc=False):
    revision: int


class AlarmMember(msgspec.Struct, frozen=True, array_like=True, gc=False):
    member: int
    alarm: AlarmType


class AlarmResult(msgspec.Struct, frozen=True, array_like=True, tag=8, gc=False):
    """The alarms raised or cleared by the request."""

    revision: int
    alarms: list[AlarmMember] = []


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=9, gc=False):
    """Refused, nothing changed. `code` is the ``code`` of a class in troth.errors, `text` etcd's wording."""

    code: str
    text: str
    revision: int = 0
    compact_revision: int = 0


Result: TypeAlias = (
    PutResult
    | RangeResult
    | DeleteRangeResult
    | TxnResult
    | LeaseGrantResult
    | LeaseRevokeResult
    | CompactResult
    | AlarmResult
    | Failure
)


# ---- events ------------------------------------------------------------------------------------------------


class EventType(IntEnum):
    PUT = 0
    DELETE = 1


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One change of one key. A DELETE's `kv` has only key and mod_revision."""

    type: EventType
    kv: KeyValue
    prev_kv: KeyValue | None = None
