"""A real etcd, started and asked through its own gRPC, in the words of `troth.kv.requests`.

Revisions of one etcd go on from example to example, so each is translated by where the example began.
"""

import importlib.util
import queue
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from troth.kv.requests import (
    Compact,
    Compare,
    CompareTarget,
    DeleteRange,
    DeleteRangeResult,
    Event,
    EventType,
    KeyValue,
    LeaseGrant,
    LeaseRevoke,
    Put,
    PutResult,
    Range,
    RangeResult,
    Txn,
    TxnResult,
)
from troth.kv.watch import WatchRequest

grpc = pytest.importorskip("grpc")
rpc_pb2 = pytest.importorskip("aetcd.rpc.rpc_pb2")
rpc_pb2_grpc = pytest.importorskip("aetcd.rpc.rpc_pb2_grpc")

SENTINEL = b"\xff\xff\xff"
"""Its put ends what a watch is listened to for."""

LEASES = [1, 2, -3, 1 << 62]


@dataclass(frozen=True)
class BriefLease:
    """Grant a lease, and revoke it before its time can run out."""

    id: int
    ttl_s: int


@dataclass(frozen=True)
class TimeToLive:
    """The granted time of a lease and its keys, sorted; -1 if it is not there."""

    id: int


@dataclass(frozen=True)
class LeaseList:
    """The ids of all leases, sorted."""


class Etcd:
    """A running etcd; revisions are given and taken relative to `offset`."""

    def __init__(self, endpoint: str) -> None:
        channel = grpc.insecure_channel(endpoint)
        grpc.channel_ready_future(channel).result(timeout=30)
        self.channel = channel
        self.kv = rpc_pb2_grpc.KVStub(channel)
        self.lease = rpc_pb2_grpc.LeaseStub(channel)
        self.watch = rpc_pb2_grpc.WatchStub(channel)
        self.offset = 0

    def begin(self) -> None:
        """An empty store at (relative) revision 1, compacted there."""
        for lease in self.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest()).leases:
            self.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease.ID))
        self.kv.Put(rpc_pb2.PutRequest(key=SENTINEL))
        gone = self.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=b"\0", range_end=b"\0"))
        self.offset = gone.header.revision - 1
        self.kv.Compact(rpc_pb2.CompactionRequest(revision=gone.header.revision))

    def ask(self, step: object) -> object:
        """What etcd answers to *step*; of a refusal its text."""
        try:
            return self._answered(step)
        except grpc.RpcError as error:
            return error.details()

    def _answered(self, step: object) -> object:
        match step:
            case Put():
                return self._put_result(self.kv.Put(self._put(step)))
            case DeleteRange():
                return self._delete_result(self.kv.DeleteRange(self._delete(step)))
            case Range():
                return self._range_result(self.kv.Range(self._range(step)))
            case Txn():
                return self._txn_result(self.kv.Txn(self._txn(step)))
            case LeaseGrant():
                granted = self.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(ID=step.id, TTL=step.ttl_s))
                return granted.ID, granted.TTL
            case LeaseRevoke():
                answer = self.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=step.id))
                return self._down(answer.header.revision)
            case Compact():
                # Negative ones as they are: those before the beginning are compacted too.
                revision = step.revision + self.offset if step.revision >= 0 else step.revision
                return self._down(self.kv.Compact(rpc_pb2.CompactionRequest(revision=revision)).header.revision)
            case BriefLease():
                granted = self.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(ID=step.id, TTL=step.ttl_s))
                self.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=granted.ID))
                return granted.TTL
            case TimeToLive():
                view = self.lease.LeaseTimeToLive(rpc_pb2.LeaseTimeToLiveRequest(ID=step.id, keys=True))
                return -1 if view.TTL == -1 else (view.grantedTTL, sorted(view.keys))
            case LeaseList():
                return sorted(each.ID for each in self.lease.LeaseLeases(rpc_pb2.LeaseLeasesRequest()).leases)
        raise AssertionError(step)

    # ---- there ----

    def _up(self, revision: int) -> int:
        return revision + self.offset if revision > 0 else revision

    def _put(self, put: Put) -> object:
        return rpc_pb2.PutRequest(
            key=put.key,
            value=put.value,
            lease=put.lease,
            prev_kv=put.prev_kv,
            ignore_value=put.ignore_value,
            ignore_lease=put.ignore_lease,
        )

    def _delete(self, delete: DeleteRange) -> object:
        return rpc_pb2.DeleteRangeRequest(key=delete.key, range_end=delete.range_end, prev_kv=delete.prev_kv)

    def _range(self, request: Range) -> object:
        return rpc_pb2.RangeRequest(
            key=request.key,
            range_end=request.range_end,
            limit=request.limit,
            revision=self._up(request.revision),
            sort_order=request.sort_order,
            sort_target=request.sort_target,
            keys_only=request.keys_only,
            count_only=request.count_only,
            min_mod_revision=self._up(request.min_mod_revision),
            max_mod_revision=self._up(request.max_mod_revision),
            min_create_revision=self._up(request.min_create_revision),
            max_create_revision=self._up(request.max_create_revision),
        )

    def _compare(self, compare: Compare) -> object:
        message = rpc_pb2.Compare(
            key=compare.key, range_end=compare.range_end, result=compare.result, target=compare.target
        )
        match compare.target:
            case CompareTarget.VERSION:
                message.version = compare.number
            case CompareTarget.CREATE:
                message.create_revision = self._up(compare.number)
            case CompareTarget.MOD:
                message.mod_revision = self._up(compare.number)
            case CompareTarget.VALUE:
                message.value = compare.value
            case CompareTarget.LEASE:
                message.lease = compare.number
        return message

    def _operation(self, part: object) -> object:
        match part:
            case Put():
                return rpc_pb2.RequestOp(request_put=self._put(part))
            case DeleteRange():
                return rpc_pb2.RequestOp(request_delete_range=self._delete(part))
            case Range():
                return rpc_pb2.RequestOp(request_range=self._range(part))
            case Txn():
                return rpc_pb2.RequestOp(request_txn=self._txn(part))
        raise AssertionError(part)

    def _txn(self, txn: Txn) -> object:
        return rpc_pb2.TxnRequest(
            compare=[self._compare(compare) for compare in txn.compare],
            success=[self._operation(part) for part in txn.success],
            failure=[self._operation(part) for part in txn.failure],
        )

    # ---- and back ----

    def _down(self, revision: int) -> int:
        return revision - self.offset if revision > 0 else revision

    def _version(self, kv: object) -> KeyValue:
        return KeyValue(
            kv.key, self._down(kv.create_revision), self._down(kv.mod_revision), kv.version, kv.value, kv.lease
        )

    def _put_result(self, answer: object) -> PutResult:
        previous = self._version(answer.prev_kv) if answer.HasField("prev_kv") else None
        return PutResult(self._down(answer.header.revision), previous)

    def _delete_result(self, answer: object) -> DeleteRangeResult:
        previous = [self._version(kv) for kv in answer.prev_kvs]
        return DeleteRangeResult(self._down(answer.header.revision), answer.deleted, previous)

    def _range_result(self, answer: object) -> RangeResult:
        kvs = [self._version(kv) for kv in answer.kvs]
        return RangeResult(self._down(answer.header.revision), kvs, answer.count, answer.more)

    def _txn_result(self, answer: object) -> TxnResult:
        responses = []
        for response in answer.responses:
            match response.WhichOneof("response"):
                case "response_put":
                    responses.append(self._put_result(response.response_put))
                case "response_range":
                    responses.append(self._range_result(response.response_range))
                case "response_delete_range":
                    responses.append(self._delete_result(response.response_delete_range))
                case "response_txn":
                    responses.append(self._txn_result(response.response_txn))
        return TxnResult(self._down(answer.header.revision), answer.succeeded, responses)

    def _event(self, event: object) -> Event:
        previous = self._version(event.prev_kv) if event.HasField("prev_kv") else None
        return Event(EventType(event.type), self._version(event.kv), previous)

    # ---- watches ----

    def _create(self, request: WatchRequest, *, fragment: bool = False) -> object:
        kind = rpc_pb2.WatchCreateRequest
        create = kind(
            key=request.key,
            range_end=request.range_end,
            start_revision=self._up(request.start_revision),
            prev_kv=request.prev_kv,
            filters=[kind.NOPUT] * request.no_put + [kind.NODELETE] * request.no_delete,
            watch_id=request.watch_id,
            fragment=fragment,
        )
        return rpc_pb2.WatchRequest(create_request=create)

    def watched(self, request: WatchRequest, *, fragment: bool = False) -> list[Event] | int:
        """All events that *request* is told of until the sentinel; the compact revision if it is cancelled."""
        stream = self.watch.Watch(iter([self._create(request, fragment=fragment)]))
        found: list[Event] = []
        for answer in stream:
            if answer.canceled:
                stream.cancel()
                return self._down(answer.compact_revision)
            found += map(self._event, answer.events)
            if found and found[-1].kv.key == SENTINEL:
                stream.cancel()
                return found
        raise AssertionError("the watch ended")

    def listen(self, requests: list[WatchRequest]) -> "Listening":
        """One stream with a watch for each of *requests*, which begin now or later, and a last one for the sentinel."""
        return Listening(self, requests)


class Listening:
    """`created`: the id of each watch, or the text of its refusal."""

    def __init__(self, etcd: Etcd, requests: list[WatchRequest]) -> None:
        self._etcd = etcd
        self._asked: queue.Queue[object] = queue.Queue()
        self._stream = etcd.watch.Watch(iter(self._asked.get, None))
        self.created: list[int | str] = []
        for request in (*requests, WatchRequest(key=SENTINEL, watch_id=99)):
            self._asked.put(etcd._create(request))
            answer = next(self._stream)
            self.created.append(answer.cancel_reason if answer.canceled else answer.watch_id)

    def told(self) -> dict[int, list[Event]]:
        """What each watch was told before the sentinel was put."""
        found: dict[int, list[Event]] = {}
        for answer in self._stream:
            events = list(map(self._etcd._event, answer.events))
            if events and answer.watch_id == 99:
                break
            found.setdefault(answer.watch_id, []).extend(events)
        self._asked.put(None)
        self._stream.cancel()
        return found


def _program() -> str | None:
    """The program that the benchmarks measure: installed, or unpacked from Debian's package."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "cluster" / "etcd_program.py"
    spec = importlib.util.spec_from_file_location("etcd_program", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.executable()


@contextmanager
def running_etcd(directory: Path) -> Iterator[Etcd]:
    """A single etcd that keeps its data in *directory*; the test is skipped where there is none."""
    program = _program()
    if program is None:
        pytest.skip("no etcd here, and Debian's package can not be had")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [listener.getsockname()[1] for listener in sockets]
    for listener in sockets:
        listener.close()
    client, peer = (f"http://127.0.0.1:{port}" for port in ports)
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [
                *(program, "--data-dir", str(directory / "data")),
                *("--listen-client-urls", client, "--advertise-client-urls", client),
                *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                *("--initial-cluster", f"default={peer}"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        running = Etcd(f"127.0.0.1:{ports[0]}")
        yield running
        running.channel.close()
    finally:
        process.kill()
        process.wait()
