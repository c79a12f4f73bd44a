"""What of a decision log stands under which key of a troth cluster, and how it is written there.

Under ``troth.2pc/log/<name>/``::

    id                          the log's name, drawn once
    epoch/<coordinator>         [number, owned]: the coordinator's newest epoch; all smaller ones are closed
    alive/<coordinator>         there while the coordinator renews its lease: a hint for recovery, never a reason
    cell/<coordinator>/<gid>    Commit or Abort: created once (a delegated Commit may become Abort), never changed
    pending/<gid>               this Commit is not known to be applied
    key/<key>                   <gid>: who committed under the caller's key
    forgotten/<coordinator>     which applied cells were dropped, a bit for each
    member/<name>
    heuristic/<gid>/<participant>: finished against the decision, and to be repaired
    dealt/<gid>/<participant>: the operator who has dealt with that; dropped with the cell
"""

from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec

from troth.client.operations import Get
from troth.client.replies import RangeReply, TxnReply
from troth.core.twophase.cells import Verdict
from troth.core.twophase.forgotten import ForgottenState
from troth.core.twophase.gid import Gid, parse_gid
from troth.core.twophase.records import Abort, Commit
from troth.errors import Corrupt, NotApplied, UsageError
from troth.kv.requests import KeyValue, Operation

T = TypeVar("T")

_encode = msgspec.msgpack.Encoder().encode


@cache
def _decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(kind)


def encode(record: Any) -> bytes:
    """Raises NotApplied: nobody could read it back."""
    try:
        encoded = _encode(record)
        kind: Any = type(record)
        _decoder(kind).decode(encoded)  # structs take any type when they are made
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
        raise NotApplied(f"the decision log could not read this back: {error}") from error
    return encoded


def decode(kv: KeyValue, kind: type[T]) -> T:
    """Raises Corrupt: that is no *kind*, which alone stands under this key."""
    try:
        found: T = _decoder(kind).decode(kv.value)  # type: ignore[arg-type]  # types can be hashed
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        key = kv.key.decode(errors="replace")
        raise Corrupt(
            f"what stands under {key} in the cluster is not what this troth writes: {error}", path=key
        ) from error
    return found


def decode_cell(kv: KeyValue) -> Commit | Abort:
    """Raises Corrupt."""
    found: Commit | Abort = decode(kv, Commit | Abort)  # type: ignore[arg-type]  # a union is no type to mypy
    return found


class EpochCell(NamedTuple):
    """The newest epoch of a coordinator."""

    number: int
    owned: bool
    """Whether a coordinator has opened it, or a recoverer just to close the others."""


class Keys:
    """The keys of the log *name*."""

    def __init__(self, name: str) -> None:
        self.prefix = f"troth.2pc/log/{name}/"

    def __call__(self, *parts: str) -> str:
        return self.prefix + "/".join(parts)

    def reads(self, gid: Gid, key: str = "") -> list[Operation]:
        """All that `seen` wants to know about *gid*, and who has the caller's *key*."""
        names = [
            self("cell", gid.coordinator, str(gid)),
            self("epoch", gid.coordinator),
            self("forgotten", gid.coordinator),
            self("pending", str(gid)),
        ]
        return [Get(name) for name in (*names, *([self("key", key)] if key else []))]


class Seen(NamedTuple):
    """What one transaction read about a gid."""

    cell: Commit | Abort | None
    epoch: EpochCell | None
    forgotten: ForgottenState
    is_pending: bool
    holder: str | None


def seen(reply: TxnReply) -> Seen:
    """What the operations of `Keys.reads` found. Raises Corrupt."""
    cell, epoch, forgotten, pending, *holder = (first(result) for result in reply.responses)
    return Seen(
        decode_cell(cell) if cell is not None else None,
        decode(epoch, EpochCell) if epoch is not None else None,
        decode(forgotten, ForgottenState) if forgotten is not None else ForgottenState(),
        pending is not None,
        holder[0].value.decode() if holder and holder[0] is not None else None,
    )


def first(result: object) -> KeyValue | None:
    """The key that a read found, if it was there."""
    return result.kvs[0] if isinstance(result, RangeReply) and result.kvs else None


def last_part(kv: KeyValue) -> str:
    """What a key ends with: a coordinator, or a transaction."""
    return kv.key.decode().rpartition("/")[2]


def verdict_of(cell: Commit | Abort, *, is_pending: bool) -> Verdict:
    """What *cell* says. Of one that is not pending, the last resource has said commit."""
    if isinstance(cell, Abort):
        return Verdict.ABORT
    return Verdict.DELEGATED if cell.delegate and is_pending else Verdict.COMMIT


def parsed(gid: str) -> Gid:
    """Raises UsageError: it is no transaction's name."""
    found = parse_gid(gid)
    if found is None:
        raise UsageError(f"{gid!r} is no transaction's name")
    return found[0]
