"""/metrics, /health, /livez, /version, and log lines."""

import asyncio
import contextlib
import io
import json
import logging
from collections.abc import AsyncIterator

import msgspec
import pytest

from troth.core.interface import Member
from troth.ids import NodeId
from troth.kv.requests import AlarmMember, AlarmType
from troth.replica.protocol import PeerView, ServerStatus
from troth.runtime.links import TransportCounters
from troth.runtime.node import NodeCounters
from troth.runtime.writer import WriterCounters
from troth.server.clients import ClientCounters
from troth.server.logs import set_up, with_facts
from troth.server.metrics import CONNECTIONS_MAX, REQUEST_BYTES_MAX, MetricsPort, Sources


def status(leader: int, *alarms: AlarmMember) -> ServerStatus:
    return ServerStatus(
        0,
        NodeId(5),
        "n1",
        77,
        "1",
        "leader",
        3,
        NodeId(leader),
        42,
        7,
        11,
        10,
        12,
        2,
        999,
        1 if leader == 5 else -1,
        False,
        [
            PeerView(NodeId(5), Member("n1"), True, 11, True, True),
            PeerView(NodeId(6), Member("n2"), True, 4, False),
            PeerView(NodeId(10), Member(""), False, -1, False),
        ],
        list(alarms),
    )


@contextlib.asynccontextmanager
async def serving(
    leader: int = 5, *alarms: AlarmMember
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    disk = WriterCounters()
    disk.writes, disk.syncs, disk.batch_sizes = 7, 3, {1: 2, 8: 1}
    sources = Sources(
        status=lambda: status(leader, *alarms),
        quota_bytes=2048,
        node=NodeCounters(),
        peers=TransportCounters(),
        clients=ClientCounters(),
        disk=disk,
        queues=lambda: {"disk_writes": 4},
        operations=lambda: {"read_linearizable": 6},
        snapshot_bytes=lambda: {"sent": 8},
    )
    port = MetricsPort(sources, version="1.2.3")
    server = await asyncio.get_running_loop().create_server(port.accept, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    try:
        async with asyncio.timeout(5):
            yield reader, writer
    finally:
        writer.close()
        server.close()


async def fetch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, bytes]:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(int(line.split(":")[1]) for line in head.split("\r\n") if line.startswith("Content-Length"))
    body = b"" if request.startswith(b"HEAD") else await reader.readexactly(length)
    return int(head.split()[1]), body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def test_metrics_tell_the_numbers_on_one_connection() -> None:
    async with serving() as (reader, writer):
        for _ in range(2):
            code, body = await fetch(reader, writer, get("/metrics?name=x"))
            assert code == 200
            lines = body.decode().splitlines()
            for line in (
                "troth_term 3.0",
                "troth_is_leader 1.0",
                "troth_commit_index 11.0",
                "troth_revision 42.0",
                "troth_survives_failures 1.0",
                'troth_peer_behind{peer="n1"} 0.0',
                'troth_peer_behind{peer="n2"} 7.0',
                'troth_peer_behind{peer="a"} 11.0',
                'troth_peer_heard{peer="n1"} 1.0',
                'troth_peer_heard{peer="n2"} 0.0',
                "troth_quota_bytes 2048.0",
                'troth_alarm{kind="nospace"} 0.0',
                'troth_alarm{kind="corrupt"} 0.0',
                "troth_disk_syncs_total 3.0",
                'troth_queue_length{queue="disk_writes"} 4.0',
                'troth_operations_total{kind="read_linearizable"} 6.0',
                'troth_snapshot_bytes_total{direction="sent"} 8.0',
                'troth_disk_batch_writes_bucket{le="8.0"} 3.0',
                'troth_disk_batch_writes_bucket{le="+Inf"} 3.0',
            ):
                assert line in lines, line


async def test_health_is_whether_a_leader_is_known() -> None:
    async with serving(leader=5) as (reader, writer):
        code, body = await fetch(reader, writer, get("/health"))
        assert code == 200 and json.loads(body)["health"] == "true"
        assert await fetch(reader, writer, b"HEAD /health HTTP/1.1\r\n\r\n") == (200, b"")
        assert json.loads((await fetch(reader, writer, get("/version")))[1]) == {"troth": "1.2.3"}
        assert (await fetch(reader, writer, get("/nothing")))[0] == 404
    async with serving(leader=0) as (reader, writer):
        code, body = await fetch(reader, writer, get("/health"))
        assert code == 503 and json.loads(body)["reason"] == "no leader is known"


async def test_a_raised_alarm_is_not_healthy_and_shows_in_the_metrics() -> None:
    """A cluster that only reads has a leader, and whoever watches it must hear that it takes no writes."""
    async with serving(5, AlarmMember(0, AlarmType.NOSPACE)) as (reader, writer):
        code, body = await fetch(reader, writer, get("/health"))
        assert code == 503 and json.loads(body)["health"] == "false"
        assert json.loads(body)["reason"] == "the space quota is used up: reads only"
        lines = (await fetch(reader, writer, get("/metrics")))[1].decode().splitlines()
        assert 'troth_alarm{kind="nospace"} 1.0' in lines and 'troth_alarm{kind="corrupt"} 0.0' in lines


async def test_an_alarm_can_be_left_out_of_what_is_healthy() -> None:
    """Reads, and the deletes that would mend it, are served at NOSPACE."""
    nospace, corrupt = (AlarmMember(0, alarm) for alarm in (AlarmType.NOSPACE, AlarmType.CORRUPT))
    for leader, alarms, query, expected in (
        (5, [nospace], "?exclude=NOSPACE", 200),
        (5, [nospace], "?exclude=", 503),
        (5, [nospace], "?exclude=CORRUPT", 503),
        (5, [nospace, corrupt], "?exclude=NOSPACE", 503),
        (5, [nospace, corrupt], "?exclude=NOSPACE&exclude=CORRUPT", 200),
        (0, [nospace], "?exclude=NOSPACE", 503),
    ):
        async with serving(leader, *alarms) as (reader, writer):
            assert (await fetch(reader, writer, get("/health" + query)))[0] == expected, (leader, alarms, query)


async def test_a_server_that_answers_is_alive_whatever_it_lacks() -> None:
    """Restarting gives it neither space nor a leader."""
    async with serving(0, AlarmMember(0, AlarmType.NOSPACE)) as (reader, writer):
        assert await fetch(reader, writer, get("/livez")) == (200, b"ok\n")


async def test_how_many_may_fail_is_told_by_the_leader_alone() -> None:
    """A follower does not know it, and -1 would mean that there is no quorum."""
    async with serving(leader=6) as (reader, writer):
        assert b"survives_failures" not in (await fetch(reader, writer, get("/metrics")))[1]


@pytest.mark.parametrize(
    ("request_", "code"), [(b"POST /metrics HTTP/1.1\r\n\r\n", 405), (b"what\r\n\r\n", 400), (b"\r\n\r\n", 400)]
)
async def test_what_is_no_get_is_refused_and_the_connection_closed(request_: bytes, code: int) -> None:
    async with serving() as (reader, writer):
        assert (await fetch(reader, writer, request_))[0] == code
        assert await reader.read() == b""


async def test_an_endless_request_is_cut_off() -> None:
    async with serving() as (reader, writer):
        writer.write(b"GET /" + b"x" * (2 * REQUEST_BYTES_MAX))
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_lines_carry_facts_and_write_node_ids_one_way(form: str) -> None:
    stream = io.StringIO()
    root = logging.getLogger("troth")
    before = (root.handlers[:], root.level, root.propagate)
    try:
        set_up(name="n1", level="info", form=form, stream=stream)
        logging.getLogger("troth.server").info("leader", extra=with_facts({"term": 3, "leader": 255}))
        logging.getLogger("troth.server").debug("not shown")
        try:
            raise ValueError("broken")
        except ValueError as error:
            logging.getLogger("troth.server").critical("a bug", exc_info=error)
    finally:
        root.handlers[:], root.propagate = before[0], before[2]
        root.setLevel(before[1])
    first, rest = stream.getvalue().split("\n", 1)
    assert "not shown" not in rest and "ValueError: broken" in rest
    if form == "json":
        line = msgspec.json.decode(first)
        assert (line["server"], line["event"], line["term"], line["leader"]) == ("n1", "leader", 3, "ff")
        assert all(isinstance(json.loads(each), dict) for each in rest.splitlines())
    else:
        assert first.endswith("info    n1 troth.server: leader term=3 leader=ff")


async def test_requests_sent_without_waiting_for_answers_do_not_pile_up() -> None:
    """Each is a scrape, and the loop has heartbeats to send meanwhile."""
    async with serving() as (reader, writer):
        writer.write(get("/version") * 1000)
        with contextlib.suppress(ConnectionResetError):
            assert (await reader.read()).count(b"HTTP/1.1 200") == 1


async def test_connections_beyond_the_bound_are_closed_and_room_is_given_again() -> None:
    async with serving() as (reader, writer):
        assert (await fetch(reader, writer, get("/version")))[0] == 200
        port = writer.get_extra_info("peername")[1]
        opened = [await asyncio.open_connection("127.0.0.1", port) for _ in range(CONNECTIONS_MAX)]
        with contextlib.suppress(ConnectionResetError):
            assert await opened[-1][0].read() == b""
        opened[0][1].close()
        opened[-1][1].close()
        while True:
            again = await asyncio.open_connection("127.0.0.1", port)
            opened.append(again)
            with contextlib.suppress(ConnectionResetError, asyncio.IncompleteReadError):
                assert (await fetch(*again, get("/version")))[0] == 200
                break
        for _, each in opened:
            each.close()
