"""What a caller gets back. Every reply says which server answered, at which revision, and under which model."""

from typing import TypeAlias

import msgspec

from troth.client.retry import error_of
from troth.errors import TrothError
from troth.kv.requests import (
    AlarmMember,
    AlarmResult,
    CompactResult,
    DeleteRangeResult,
    Failure,
    KeyValue,
    LeaseGrantResult,
    LeaseRevokeResult,
    OperationResult,
    PutResult,
    RangeResult,
    Result,
    TxnResult,
)
from troth.models import LevelName

# gc=False is safe where a reply can reach nothing that points back at it: bytes, numbers and KeyValues.


class PutReply(msgspec.Struct, frozen=True, gc=False):
    """`prev_kv` is what stood there before, when it was asked for and was there."""

    revision: int
    server: str
    prev_kv: KeyValue | None = None

    @property
    def level(self) -> LevelName:
        return LevelName.LINEARIZABLE


class GetReply(msgspec.Struct, frozen=True, gc=False):
    """One key as it stood at `revision`. `kv` is None when there is no such key.

    `level` is the model achieved; `staleness_ms` bounds how old the state was (0: as new as the level demands,
    -1: unknown).
    """

    kv: KeyValue | None
    revision: int
    server: str
    level: LevelName
    staleness_ms: int

    @property
    def value(self) -> bytes | None:
        return None if self.kv is None else self.kv.value


class RangeReply(msgspec.Struct, frozen=True, gc=False):
    """`count` is how many keys the span holds, whatever limit and filters say; `more`: the limit cut some off."""

    kvs: list[KeyValue]
    count: int
    more: bool
    revision: int
    server: str
    level: LevelName
    staleness_ms: int


class DeleteReply(msgspec.Struct, frozen=True, gc=False):
    """`deleted` keys are gone; `prev_kvs` are they, when asked for."""

    deleted: int
    prev_kvs: list[KeyValue]
    revision: int
    server: str

    @property
    def level(self) -> LevelName:
        return LevelName.LINEARIZABLE


class TxnReply(msgspec.Struct, frozen=True):
    """`succeeded`: all comparisons held. `responses` answer the operations of the branch that ran, in order."""

    succeeded: bool
    responses: list["OperationReply"]
    revision: int
    server: str

    @property
    def level(self) -> LevelName:
        return LevelName.LINEARIZABLE


OperationReply: TypeAlias = PutReply | RangeReply | DeleteReply | TxnReply


class LeaseGranted(msgspec.Struct, frozen=True, gc=False):
    """A lease exists: `ttl_s` is what the store made of the time asked for."""

    id: int
    ttl_s: int
    revision: int
    server: str


class Acknowledged(msgspec.Struct, frozen=True, gc=False):
    """Done; there is nothing more to say than by whom and at which revision."""

    revision: int
    server: str


class AlarmReply(msgspec.Struct, frozen=True, gc=False):
    """The alarms that the request raised or cleared."""

    alarms: list[AlarmMember]
    revision: int
    server: str


WriteReply: TypeAlias = OperationReply | LeaseGranted | Acknowledged | AlarmReply


def write_reply(result: Result, server: str) -> WriteReply | TrothError:
    """What the caller of a write sees of *result*; an error is to be raised."""
    match result:
        case PutResult() | RangeResult() | DeleteRangeResult() | TxnResult():
            return _operation_reply(result, server)
        case LeaseGrantResult():
            return LeaseGranted(result.id, result.ttl_s, result.revision, server)
        case LeaseRevokeResult() | CompactResult():
            return Acknowledged(result.revision, server)
        case AlarmResult():
            return AlarmReply(result.alarms, result.revision, server)
        case Failure():
            return error_of(result.code, result.text, compact_revision=result.compact_revision)


def _operation_reply(result: OperationResult, server: str) -> OperationReply:
    match result:
        case PutResult():
            return PutReply(result.revision, server, result.prev_kv)
        case RangeResult():
            return RangeReply(
                result.kvs, result.count, result.more, result.revision, server, LevelName.LINEARIZABLE, 0
            )
        case DeleteRangeResult():
            return DeleteReply(result.deleted, result.prev_kvs, result.revision, server)
        case TxnResult():
            responses = [_operation_reply(response, server) for response in result.responses]
            return TxnReply(result.succeeded, responses, result.revision, server)
