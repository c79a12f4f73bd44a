"""The store beside a real etcd: same commands, same answers, same error texts, same events.

Revisions of one etcd go on from example to example, so each is translated by where the example began.
"""

import importlib.util
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from troth.kv.requests import (
    Compact,
    Compare,
    CompareTarget,
    DeleteRange,
    DeleteRangeResult,
    Event,
    EventType,
    Failure,
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
from troth.kv.store import Store
from troth.kv.watch import WatchHub, WatchRequest

grpc = pytest.importorskip("grpc")
rpc_pb2 = pytest.importorskip("aetcd.rpc.rpc_pb2")
rpc_pb2_grpc = pytest.importorskip("aetcd.rpc.rpc_pb2_grpc")

pytestmark = pytest.mark.integration

KEYS = [b"a", b"b", b"b\0", b"ba", b"bb", b"c", b"\xff"]
SENTINEL = b"\xff\xff\xff"
LEASES = [1, 2, -3]

keys = st.sampled_from([*KEYS, *KEYS, b""])
range_ends = st.sampled_from([b"", b"", b"\0", b"b", b"bb", b"c", b"d"])
values = st.sampled_from([b"", b"x", b"y"])
numbers = st.integers(0, 8)
seldom = st.sampled_from([False, False, False, True])
leases = st.sampled_from([0, 0, 0, *LEASES])
puts = st.builds(Put, keys, values, leases, st.booleans(), seldom, seldom)
deletes = st.builds(DeleteRange, keys, range_ends.filter(lambda end: end != b"\0"), st.booleans())
ranges = st.builds(
    Range,
    keys,
    range_ends,
    limit=st.integers(-1, 4),
    revision=st.sampled_from([0, 0, 0]) | st.integers(0, 25),
    sort_order=st.integers(0, 2),
    sort_target=st.integers(0, 4),
    keys_only=seldom,
    count_only=seldom,
    min_mod_revision=st.just(0) | numbers,
    max_mod_revision=st.just(0) | numbers,
    min_create_revision=st.just(0) | numbers,
    max_create_revision=st.just(0) | numbers,
)
compares = st.builds(
    Compare, keys, st.sampled_from(CompareTarget), st.integers(0, 3), numbers, values, st.just(b"") | range_ends
)


@st.composite
def txns(draw: st.DrawFn, depth: int = 2) -> Txn:
    operations = puts | puts | deletes | ranges
    if depth:
        operations |= txns(depth - 1)
    branches = st.lists(operations, max_size=3).map(tuple)
    return Txn(tuple(draw(st.lists(compares, max_size=2))), draw(branches), draw(branches))


steps = st.lists(
    puts
    | puts
    | deletes
    | ranges
    | txns()
    | txns()
    | st.builds(LeaseGrant, st.sampled_from(LEASES), st.sampled_from([600, 9_000_000_001]))
    | st.builds(LeaseRevoke, st.sampled_from(LEASES))
    | st.builds(Compact, st.integers(0, 25)),
    min_size=4,
    max_size=25,
)


class Etcd:
    """A running etcd, asked through its own gRPC; revisions are given and taken relative to `offset`."""

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
        for lease in LEASES:
            try:
                self.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease))
            except grpc.RpcError:
                continue
        self.kv.Put(rpc_pb2.PutRequest(key=SENTINEL))
        gone = self.kv.DeleteRange(rpc_pb2.DeleteRangeRequest(key=b"\0", range_end=b"\0"))
        self.offset = gone.header.revision - 1
        self.kv.Compact(rpc_pb2.CompactionRequest(revision=gone.header.revision))

    def ask(self, step: object) -> object:
        try:
            match step:
                case Put():
                    return self.put_result(self.kv.Put(self.put(step)), None)
                case DeleteRange():
                    return self.delete_result(self.kv.DeleteRange(self.delete(step)), None)
                case Range():
                    return self.range_result(self.kv.Range(self.range(step)), None)
                case Txn():
                    return self.txn_result(self.kv.Txn(self.txn(step)))
                case LeaseGrant():
                    return self.lease.LeaseGrant(rpc_pb2.LeaseGrantRequest(ID=step.id, TTL=step.ttl_s)).TTL
                case LeaseRevoke():
                    return self.down(
                        self.lease.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=step.id)).header.revision
                    )
                case Compact():
                    answer = self.kv.Compact(rpc_pb2.CompactionRequest(revision=step.revision + self.offset))
                    return self.down(answer.header.revision)
        except grpc.RpcError as error:
            return error.details()

    def up(self, revision: int) -> int:
        return revision + self.offset if revision > 0 else revision

    def down(self, revision: int) -> int:
        return revision - self.offset if revision > 0 else revision

    def put(self, put: Put) -> object:
        return rpc_pb2.PutRequest(
            key=put.key,
            value=put.value,
            lease=put.lease,
            prev_kv=put.prev_kv,
            ignore_value=put.ignore_value,
            ignore_lease=put.ignore_lease,
        )

    def delete(self, delete: DeleteRange) -> object:
        return rpc_pb2.DeleteRangeRequest(key=delete.key, range_end=delete.range_end, prev_kv=delete.prev_kv)

    def range(self, request: Range) -> object:
        return rpc_pb2.RangeRequest(
            key=request.key,
            range_end=request.range_end,
            limit=request.limit,
            revision=self.up(request.revision),
            sort_order=request.sort_order,
            sort_target=request.sort_target,
            keys_only=request.keys_only,
            count_only=request.count_only,
            min_mod_revision=self.up(request.min_mod_revision),
            max_mod_revision=self.up(request.max_mod_revision),
            min_create_revision=self.up(request.min_create_revision),
            max_create_revision=self.up(request.max_create_revision),
        )

    def compare(self, compare: Compare) -> object:
        message = rpc_pb2.Compare(
            key=compare.key, range_end=compare.range_end, result=compare.result, target=compare.target
        )
        match compare.target:
            case CompareTarget.VERSION:
                message.version = compare.number
            case CompareTarget.CREATE:
                message.create_revision = self.up(compare.number)
            case CompareTarget.MOD:
                message.mod_revision = self.up(compare.number)
            case CompareTarget.VALUE:
                message.value = compare.value
            case CompareTarget.LEASE:
                message.lease = compare.number
        return message

    def txn(self, txn: Txn) -> object:
        def operation(part: object) -> object:
            match part:
                case Put():
                    return rpc_pb2.RequestOp(request_put=self.put(part))
                case DeleteRange():
                    return rpc_pb2.RequestOp(request_delete_range=self.delete(part))
                case Range():
                    return rpc_pb2.RequestOp(request_range=self.range(part))
                case Txn():
                    return rpc_pb2.RequestOp(request_txn=self.txn(part))

        return rpc_pb2.TxnRequest(
            compare=[self.compare(compare) for compare in txn.compare],
            success=[operation(part) for part in txn.success],
            failure=[operation(part) for part in txn.failure],
        )

    def version(self, kv: object) -> KeyValue:
        return KeyValue(
            kv.key, self.down(kv.create_revision), self.down(kv.mod_revision), kv.version, kv.value, kv.lease
        )

    def put_result(self, answer: object, _: object) -> PutResult:
        previous = self.version(answer.prev_kv) if answer.HasField("prev_kv") else None
        return PutResult(self.down(answer.header.revision), previous)

    def delete_result(self, answer: object, _: object) -> DeleteRangeResult:
        previous = [self.version(kv) for kv in answer.prev_kvs]
        return DeleteRangeResult(self.down(answer.header.revision), answer.deleted, previous)

    def range_result(self, answer: object, _: object) -> RangeResult:
        kvs = [self.version(kv) for kv in answer.kvs]
        return RangeResult(self.down(answer.header.revision), kvs, answer.count, answer.more)

    def txn_result(self, answer: object) -> TxnResult:
        responses = []
        for response in answer.responses:
            match response.WhichOneof("response"):
                case "response_put":
                    responses.append(self.put_result(response.response_put, None))
                case "response_range":
                    responses.append(self.range_result(response.response_range, None))
                case "response_delete_range":
                    responses.append(self.delete_result(response.response_delete_range, None))
                case "response_txn":
                    responses.append(self.txn_result(response.response_txn))
        return TxnResult(self.down(answer.header.revision), answer.succeeded, responses)

    def watched(self, request: WatchRequest) -> list[Event] | int:
        """All events that *request* is told of until the sentinel; the compact revision if it is cancelled."""
        kind = rpc_pb2.WatchCreateRequest
        create = kind(
            key=request.key,
            range_end=request.range_end,
            start_revision=self.up(request.start_revision),
            prev_kv=request.prev_kv,
            filters=[kind.NOPUT] * request.no_put + [kind.NODELETE] * request.no_delete,
        )
        stream = self.watch.Watch(iter([rpc_pb2.WatchRequest(create_request=create)]))
        found: list[Event] = []
        for answer in stream:
            if answer.canceled:
                stream.cancel()
                return self.down(answer.compact_revision)
            for event in answer.events:
                previous = self.version(event.prev_kv) if event.HasField("prev_kv") else None
                found.append(Event(EventType(event.type), self.version(event.kv), previous))
            if found and found[-1].kv.key == SENTINEL:
                stream.cancel()
                return found
        raise AssertionError("the watch ended")

    def events(self, start_revision: int) -> list[Event]:
        """All events from *start_revision* until the sentinel is put."""
        create = rpc_pb2.WatchCreateRequest(
            key=b"\0", range_end=b"\0", start_revision=self.up(start_revision), prev_kv=True
        )
        stream = self.watch.Watch(iter([rpc_pb2.WatchRequest(create_request=create)]))
        found: list[Event] = []
        for answer in stream:
            for event in answer.events:
                previous = self.version(event.prev_kv) if event.HasField("prev_kv") else None
                found.append(Event(EventType(event.type), self.version(event.kv), previous))
            if found and found[-1].kv.key == SENTINEL:
                stream.cancel()
                return found
        raise AssertionError("the watch ended")


def etcd_program() -> str | None:
    """The program that the benchmarks measure: installed, or unpacked from Debian's package."""
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "cluster" / "etcd_program.py"
    spec = importlib.util.spec_from_file_location("etcd_program", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.executable()


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    program = etcd_program()
    if program is None:
        pytest.skip("no etcd here, and Debian's package can not be had")
    directory: Path = tmp_path_factory.mktemp("etcd")
    ports = []
    sockets = []
    for _ in range(2):
        listener = socket.create_server(("127.0.0.1", 0))
        ports.append(listener.getsockname()[1])
        sockets.append(listener)
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


def ask_store(store: Store, step: object) -> object:
    """What etcd's wire would show of the store's answer."""
    result = store.range(step) if isinstance(step, Range) else store.apply(step)
    if isinstance(result, Failure):
        return result.text
    if isinstance(step, LeaseGrant):
        return result.ttl_s
    if isinstance(step, LeaseRevoke | Compact):
        return result.revision
    return result


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(steps=steps)
def test_etcd_answers_the_same(etcd: Etcd, steps: list) -> None:
    etcd.begin()
    store = Store()
    store.apply(Compact(1))
    for step in steps:
        assert ask_store(store, step) == etcd.ask(step)
    last = Put(SENTINEL, b"")
    assert ask_store(store, last) == etcd.ask(last)
    hub = WatchHub(store, page_versions_max=7)
    # From after the compaction: etcd 3.4 forgets a deletion at the compact revision itself.
    hub.create(1, WatchRequest(key=b"", range_end=b"\0", start_revision=store.compact_revision + 1, prev_kv=True))
    told: list[Event] = []
    while hub.has_work:
        told += [event for batch in hub.poll() for event in batch.events]
    if store.compact_revision < store.revision:
        assert told == etcd.events(store.compact_revision + 1)


watches = st.builds(
    dict,
    key=st.sampled_from(KEYS),
    range_end=st.sampled_from(
        [b"\0", b"\xff\xff\xff\xff"]
    ),  # the sentinel, which ends it, is among what is watched
    start=st.integers(0, 30),
    no_put=st.booleans(),
    no_delete=st.booleans(),
    prev_kv=st.booleans(),
).filter(lambda wanted: not (wanted["no_put"] and wanted["no_delete"]))


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(steps=steps, wanted=st.lists(watches, min_size=2, max_size=4))
def test_watches_tell_what_etcd_tells(etcd: Etcd, steps: list, wanted: list[dict]) -> None:
    """From any revision (compacted ones too), over any span, with filters, with and without what was there before."""
    etcd.begin()
    store = Store()
    store.apply(Compact(1))
    for step in steps:
        assert ask_store(store, step) == etcd.ask(step)
    newest = store.revision
    for last in (Put(SENTINEL, b""), DeleteRange(SENTINEL)):
        assert ask_store(store, last) == etcd.ask(last)
    for each in wanted:
        fields = {name: value for name, value in each.items() if name != "start"}
        start = min(each["start"], newest + 1) or 1
        if start == store.compact_revision:
            start += 1  # etcd 3.4 forgets a deletion at the compact revision itself
        request = WatchRequest(start_revision=start, **fields)
        hub = WatchHub(store, page_versions_max=7)
        hub.create(1, request)
        told: list[Event] = []
        canceled = 0
        while hub.has_work:
            for batch in hub.poll():
                told += batch.events
                canceled = batch.compact_revision if batch.canceled else canceled
        theirs = etcd.watched(request)
        if isinstance(theirs, int):
            assert (canceled, told) == (theirs, [])
        else:
            # etcd may or may not have gone on to the sentinel's deletion when it was heard.
            assert not canceled and told[: len(theirs)] == theirs
            assert all(event.kv.key == SENTINEL for event in told[len(theirs) :])
