"""What programs do to a client that they should not, or only seldom do: each is answered, and harms nobody else."""

import asyncio
import concurrent.futures
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from fake_server import Served, asynchronous, running, until

import troth
from troth import aio
from troth.client import recording
from troth.client.background import Background
from troth.errors import InvalidRequest, UsageError
from troth.models import LevelName, ReadLevel
from troth.wire.frames import FRAME_BYTES_MAX


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.stop()


# ---- awaitables --------------------------------------------------------------------------------------------


@asynchronous
async def test_answers_are_futures_to_wait_for_together() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        done, _ = await asyncio.wait([client.put("a", "2"), client.get("a")])
        assert len(done) == 2
        task = asyncio.ensure_future(client.put("a", "3"))
        assert (await task).revision == 3


@asynchronous
async def test_a_lease_can_be_asked_for_by_a_task() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.lease(30)) for _ in range(2)]
        assert all(task.result().is_alive for task in tasks)
        client.lease(30).close()  # asked for, and not wanted after all: nothing is left unawaited
        async with client.lease(30) as lease:
            assert lease.is_alive


# ---- loops and threads -------------------------------------------------------------------------------------


@asynchronous
async def test_a_client_is_used_in_the_loop_that_it_was_made_in() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:

        async def elsewhere() -> list[str]:
            told = []
            calls = (
                lambda: client.put("a", "1"),
                lambda: client.get("a"),
                lambda: client.watch("a"),
                lambda: client.snapshot(io.BytesIO()),
                client.status,
                client.close,
            )
            for call in calls:
                with pytest.raises(UsageError, match="event loop that it was made in") as caught:
                    await call()
                told.append(str(caught.value))
            return told

        assert len(await asyncio.to_thread(lambda: asyncio.run(elsewhere()))) == 6
        with pytest.raises(UsageError, match="event loop that it was made in"):
            await asyncio.to_thread(client.put, "a", "1")
        assert (await client.put("a", "2")).revision == 2


class Surprise(Exception):
    """What a signal handler of the application raises."""


def test_a_call_that_a_signal_handler_ends_is_ended_in_the_loop_too(monkeypatch: pytest.MonkeyPatch) -> None:
    background = Background()
    begun, ended = threading.Event(), threading.Event()

    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    class Interrupted(concurrent.futures.Future[None]):
        """One in whose waiting a signal arrives. (A real one may come just before the wait, and end nothing.)"""

        def result(self, timeout: float | None = None) -> None:
            assert begun.wait(10)
            raise Surprise

    monkeypatch.setattr(concurrent.futures, "Future", Interrupted)
    try:
        with pytest.raises(Surprise):
            background.run(hang)
        assert ended.wait(10)
    finally:
        background.stop()


def test_a_session_of_threads_is_a_context_manager(served: Served) -> None:
    with troth.connect(served.cluster.url) as client, client.session() as session:
        session.put("a", "1")
        assert session.get("a").value == b"1"


@asynchronous
async def test_a_session_is_a_context_manager() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client, client.session() as session:
        await session.put("a", "1")
        assert (await session.get("a")).value == b"1"


# ---- arguments ---------------------------------------------------------------------------------------------


@asynchronous
async def test_time_outs_that_are_no_time_are_refused() -> None:
    for seconds in (0, -1, float("nan"), True, 10**400):
        with pytest.raises(UsageError, match="positive number of seconds"):
            aio.AsyncClient("troth://127.0.0.1:1", timeout=seconds)


@asynchronous
async def test_times_of_a_wrong_type_are_told_in_words() -> None:
    with pytest.raises(UsageError, match="positive number of seconds"):
        aio.AsyncClient("troth://127.0.0.1:1", timeout="5")  # type: ignore[arg-type]
    async with running() as cluster, await aio.connect(cluster.url) as client:
        for call in (lambda: client.get("a", timeout="5"), lambda: client.put("a", timeout=10**400)):
            with pytest.raises(UsageError, match="positive number of seconds"):
                call()
        for ttl_s in ("a", 5.5, 0, None, True):
            with pytest.raises(UsageError, match="whole number of seconds"):
                await client.lease(ttl_s)  # type: ignore[arg-type]


@asynchronous
async def test_a_transaction_of_no_lists_is_told_in_words() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        wrong: tuple[Any, ...] = (1, None, troth.version("a") == 0)
        for part in wrong:
            with pytest.raises(UsageError, match="takes lists"):
                client.txn(part)
            with pytest.raises(UsageError, match="takes lists"):
                troth.Txn((), (), part)


def test_a_comparison_has_no_truth_value() -> None:
    """Python would keep the last of two that it puts together, and the transaction would lose a part of its guard."""
    wrong: tuple[Callable[[], object], ...] = (
        lambda: 5 < troth.version("a") < 100,
        lambda: troth.version("a") == 7 and troth.version("b") == 1,
        lambda: not troth.value("a"),
        lambda: 1 if troth.version("a") == 77 else 2,
    )
    for compared in wrong:
        with pytest.raises(UsageError, match="by itself in the list of txn"):
            compared()


@asynchronous
async def test_a_session_reads_at_its_own_level_and_in_the_time_that_is_given() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        session = client.session()
        assert (await session.get("a", timeout=1)).kv is None
        with pytest.raises(UsageError, match="positive number of seconds"):
            await session.get("a", timeout=-1)
        with pytest.raises(UsageError, match="level of its own"):
            await session.range("a", level=troth.eventual)


@asynchronous
async def test_what_a_client_cannot_be_made_of_is_told_in_words() -> None:
    for url in (None, b"troth://127.0.0.1:1", 5):
        with pytest.raises(UsageError, match="troth://"):
            await aio.connect(url)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="SSLContext"):
        await aio.connect("troth://127.0.0.1:1", tls="x")  # type: ignore[arg-type]


@asynchronous
async def test_a_number_that_does_not_fit_is_told_in_words() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        for call in (lambda: client.get("a", revision=1 << 70), lambda: client.put("a", lease=-(1 << 64))):
            with pytest.raises(UsageError, match=r"64 bits") as caught:
                call()
            assert "seen_revision" not in str(caught.value)


@asynchronous
async def test_long_keys_are_read_in_frames_that_a_server_takes() -> None:
    """Reads of one turn share a frame, which no server takes above a bound."""
    async with running() as cluster, await aio.connect(cluster.url) as client:
        key = "k" * 100_000
        await client.put(key, "here")
        answers = await asyncio.gather(*(client.get(key) for _ in range(2 * FRAME_BYTES_MAX // len(key))))
        assert {answer.value for answer in answers} == {b"here"}
        assert len(cluster.servers[0].peers) == 1  # no connection was lost over it


@asynchronous
async def test_a_request_that_no_server_takes_is_refused_here() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        huge = "k" * (FRAME_BYTES_MAX + 1)
        beside = client.get("a")
        for call in (
            lambda: client.get(huge),
            lambda: client.get(huge, level=troth.eventual),
            lambda: client.get(huge, timeout=1),
            lambda: client.range("a", huge),
            lambda: client.delete(huge),
            lambda: client.put(huge, "1"),
            lambda: client.txn([], [troth.Get(huge)]),
            lambda: client.watch(huge),
        ):
            with pytest.raises(InvalidRequest, match="request is too large"):
                await call()
        assert (await beside).kv is None
        assert len(cluster.servers[0].peers) == 1


@asynchronous
async def test_a_level_that_no_server_could_read_is_refused_and_harms_no_other_read() -> None:
    impossible = (
        ReadLevel(LevelName.SESSION, 1 << 70),
        ReadLevel(LevelName.BOUNDED_REVISIONS, revisions_behind_max=1.5),  # type: ignore[arg-type]
        ReadLevel(LevelName.BOUNDED_TIME, staleness_ms_max="1"),  # type: ignore[arg-type]
        ReadLevel([]),  # type: ignore[arg-type]
    )
    async with running() as cluster, await aio.connect(cluster.url) as client:
        for level in impossible:
            before = client.get("a", level=troth.eventual)
            with pytest.raises(UsageError):
                client.get("a", level=level)
            beside = client.get("a")
            assert (await before).kv is None and (await beside).kv is None
        assert len(cluster.servers[0].peers) == 1 and client._reads.held == 0


# ---- connections -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
@asynchronous
async def test_a_port_without_tls_is_told_to_who_wants_it(says: bytes) -> None:
    class Plain(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = cast(asyncio.Transport, transport)

        def data_received(self, _: bytes) -> None:
            self.transport.write(says)
            self.transport.close()

    listener = await asyncio.get_running_loop().create_server(Plain, "127.0.0.1", 0)
    address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    client = aio.AsyncClient(f"troth+tls://{address}", timeout=1)
    await until(lambda: client.servers()[address] != "not connected yet")
    assert "TLS handshake failed" in client.servers()[address] and "troth://" in client.servers()[address]
    await client.close()
    listener.close()


@asynchronous
async def test_a_server_that_says_nothing_is_not_one_that_was_never_called() -> None:
    listener = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    address = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    client = aio.AsyncClient(f"troth://{address}", timeout=1)
    assert client.servers() == {address: "not connected yet"}
    await until(lambda: client.servers()[address].startswith("connected, and no word from it yet"))
    await client.close()
    listener.close()


@asynchronous
async def test_a_failure_without_words_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ConnectionAbortedError

    monkeypatch.setattr("troth.client.link.open_connection", fail)
    client = aio.AsyncClient("troth://127.0.0.1:1", timeout=1)
    await until(lambda: client.servers() != {"127.0.0.1:1": "not connected yet"})
    assert client.servers() == {"127.0.0.1:1": "ConnectionAbortedError"}
    assert "127.0.0.1:1: ConnectionAbortedError" in client.router.describe()
    await client.close()


# ---- recording ---------------------------------------------------------------------------------------------


class Ending:
    """A recorder that is gone when one looks at it a second time."""

    def __init__(self, recorder: recording.Recorder) -> None:
        self.looks = 0
        self.recorder = recorder

    @property
    def active(self) -> "recording.Recorder | None":
        self.looks += 1
        return self.recorder if self.looks % 2 else None


@asynchronous
async def test_a_recording_may_end_while_a_thread_is_calling(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    from troth.client import aio as module

    recorder = recording.Recorder(tmp_path_factory.mktemp("ending") / "run.jsonl")
    async with running() as cluster, await aio.connect(cluster.url) as client:
        ending = Ending(recorder)
        monkeypatch.setattr(module, "recording", ending)
        await client.put("a", "1")
        await client.get("a")
        await client.range(prefix="a")
        await client.txn([], [troth.Get("a")])
        await client.delete("a")
    recorder.close()
    assert ending.looks >= 5, "some calls were not recorded"
