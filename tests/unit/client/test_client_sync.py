"""The synchronous facade: the same client from threads, one cluster served by a loop in another thread."""

import asyncio
import multiprocessing
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_server import Served

import troth
from troth.client import background
from troth.errors import LeaseNotFound, NotApplied, OutcomeUnknown, Unavailable, UsageError
from troth.storage.backup import SEAL_BYTES


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.stop()


def test_every_call_of_the_facade_works(served: Served, tmp_path: Path) -> None:
    with troth.connect(served.cluster.url) as client:
        assert client.put("a", "1").server == "n1"
        assert client.get("a").value == b"1"
        assert client.range(prefix="").count == 1
        assert client.txn([troth.value("a") == "1"], [troth.Put("b", "2")]).succeeded
        assert client.delete("a").deleted == 1
        assert client.seen_revision == 4
        assert len(client.status()) == 3 and len(client.members()) == 3 and len(client.hash()) == 3
        assert client.leader == 1 and set(client.servers().values()) == {""}
        assert client.snapshot(tmp_path / "state") == 15 + SEAL_BYTES
        assert client.alarms() == [] and client.disarm() == []
        client.remove_member("n3")
        client.promote_member(2)
        client.transfer("n2")
        session = client.session()
        session.put("c", "3")
        assert session.get("c").value == b"3" and session.range(prefix="c").count == 1
        assert client.session(session.token).seen_revision == session.seen_revision
        assert session.txn(success=[troth.Delete("c")]).succeeded and session.delete("c").deleted == 0
        assert client.compact(5).revision == session.seen_revision


def test_a_client_whose_closing_fails_leaves_no_thread(served: Served) -> None:
    client = troth.connect(served.cluster.url)
    close = client.aio.close

    async def fails() -> None:
        await close()
        raise RuntimeError("closing failed")

    client.aio.close = fails  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="closing failed"):
        client.close()
    assert not client.background.is_running
    client.close()


def test_threads_may_close_a_client_together_and_while_it_is_used(served: Served) -> None:
    for _ in range(20):
        client = troth.connect(served.cluster.url)
        begin = threading.Barrier(4)

        def use(client: troth.Client = client, begin: threading.Barrier = begin) -> None:
            begin.wait()
            while True:
                client.put("a", "1")

        def close(client: troth.Client = client, begin: threading.Barrier = begin) -> None:
            begin.wait()
            client.close()

        with ThreadPoolExecutor(4) as threads:
            using, closing = [threads.submit(use) for _ in range(2)], [threads.submit(close) for _ in range(2)]
            assert [future.result(10) for future in closing] == [None, None]
            for future in using:
                assert isinstance(future.exception(10), UsageError | Unavailable | OutcomeUnknown)


def test_errors_arrive_in_the_calling_thread(served: Served) -> None:
    with troth.connect(served.cluster.url) as client:
        with pytest.raises(UsageError):
            client.put("a", 1)  # type: ignore[arg-type]
        with pytest.raises(troth.errors.FutureRevision):
            client.get("a", revision=50)
    with pytest.raises(Unavailable, match="refused"):
        troth.connect("troth://127.0.0.1:1", timeout=0.2)
    with pytest.raises(UsageError):
        troth.connect("nonsense")


def test_threads_share_a_client(served: Served) -> None:
    with troth.connect(served.cluster.url) as client, ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda number: client.put(f"k{number}", "v"), range(200)))
        assert len({reply.revision for reply in replies}) == 200
        assert client.range(prefix="k").count == 200


def test_a_watch_is_an_iterator(served: Served) -> None:
    with troth.connect(served.cluster.url) as client:
        with client.watch(prefix="k") as watch:
            for number in range(3):
                client.put(f"k{number}", "v")
            seen = []
            for events in watch:
                seen += [event.kv.key for event in events]
                if len(seen) == 3:
                    break
            assert seen == [b"k0", b"k1", b"k2"] and watch.revision == client.seen_revision
        assert list(watch) == []
        with pytest.raises(troth.errors.InvalidRequest):
            client.watch("b", "a")


def test_a_lease_is_a_context_manager(served: Served) -> None:
    with troth.connect(served.cluster.url) as client:
        with client.lease(10) as lease:
            client.put("a", "1", lease=lease.id)
            assert lease.is_alive and lease.keep_alive() == 10 and client.leases() == [lease.id]
            assert lease.time_to_live(keys=True).keys == [b"a"]
        assert client.get("a").kv is None and not lease.lost.is_set()
        lost = client.lease(10)
        client.lease(10, id=lost.id + 1).revoke()
        other = troth.connect(served.cluster.url)
        kept = other.lease(10)
        other.close()
        assert kept.lost.wait(5)
        with pytest.raises(LeaseNotFound):
            client.put("a", "1", lease=12345)


def test_close_ends_the_calls_of_other_threads(served: Served) -> None:
    client = troth.connect(served.cluster.url)
    client.put("a", "1")
    served.cluster.servers[0].stop()
    with ThreadPoolExecutor(2) as pool:
        asked = threading.Event()

        def put() -> None:
            asked.set()
            client.put("b", "2")

        pending = pool.submit(put)
        asked.wait()
        client.close()
        with pytest.raises((OutcomeUnknown, NotApplied, UsageError)):
            pending.result(5)
    client.close()
    with pytest.raises(UsageError, match="closed"):
        client.put("c", "3")


def _use_inherited(client: "troth.Client", told: "multiprocessing.SimpleQueue[str]") -> None:
    try:
        client.put("a", "1")
    except UsageError as error:
        told.put(str(error))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_told_to_make_its_own_client(served: Served) -> None:
    with troth.connect(served.cluster.url) as client:
        context = multiprocessing.get_context("fork")
        told = context.SimpleQueue()
        child = context.Process(target=_use_inherited, args=(client, told))
        child.start()
        child.join()
        assert "fork" in told.get() or "closed" in told.get()


def test_importing_troth_is_light() -> None:
    code = (
        "import sys, troth, troth.hashing\n"
        "heavy = {'asyncio', 'uvloop', 'troth.client', 'troth.replica', 'troth.kv', 'troth.wire'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert troth.linearizable and troth.connect and 'connect' in dir(troth)\n"
        "try: troth.nonsense\n"
        "except AttributeError: pass\n"
        "else: raise SystemExit('no error')\n"
        "for name in troth.__all__: getattr(troth, name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_no_loop_to_be_had_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(background.uvloop, "new_event_loop", fail)
    with pytest.raises(OSError, match="too many"):
        background.Background()


@pytest.mark.parametrize("raised", [SystemExit("as asked"), KeyboardInterrupt("as asked")])
def test_what_ends_a_program_ends_no_thread_that_others_wait_for(served: Served, raised: BaseException) -> None:
    with troth.connect(served.cluster.url) as client:
        told: list[str] = []
        begun = threading.Event()
        answer: list[asyncio.Future[str]] = []

        def waits() -> "asyncio.Future[str]":
            client.background._loop.set_exception_handler(
                lambda _, context: told.append(str(context["exception"]))
            )
            answer.append(client.background._loop.create_future())
            begun.set()
            return answer[0]

        async def leaves() -> None:
            client.background._loop.call_soon(answer[0].set_result, "in the same turn")
            raise raised

        with ThreadPoolExecutor(1) as threads:
            other = threads.submit(client.background.run, waits)
            assert begun.wait(5)
            with pytest.raises(type(raised), match="as asked"):
                client.background.run(leaves)
            assert other.result(5) == "in the same turn" and told == ["as asked"]
        client.put("k", "it goes on")


def test_who_asks_later_is_told_of_a_lost_lease_too(served: Served) -> None:
    told: list[str] = []
    client = troth.connect(served.cluster.url)
    lease = client.lease(10)
    lease.on_lost(lambda: told.append("early"))
    assert (lease.is_over, told) == (False, [])
    client.close()
    assert lease.is_over and lease.lost.wait(10)
    assert told == ["early"]


def test_an_on_lost_that_exits_ends_neither_the_client_nor_hides_the_loss(served: Served) -> None:
    with troth.connect(served.cluster.url) as client:
        told: list[str] = []

        async def lose() -> None:
            client.background._loop.set_exception_handler(
                lambda _, context: told.append(str(context.get("exception")))
            )
            lease.aio.lose()

        lease = client.lease(10, on_lost=lambda: sys.exit("the lease is lost"))
        client.background.run(lose)
        assert lease.lost.is_set() and "os._exit" in told[0]
        client.put("k", "it goes on")


def test_a_client_cannot_be_closed_by_its_own_thread(served: Served) -> None:
    with troth.connect(served.cluster.url) as client:
        told = threading.Event()
        errors: list[BaseException | None] = []

        async def lose() -> None:
            client.background._loop.set_exception_handler(
                lambda _, context: (errors.append(context.get("exception")), told.set())
            )
            lease.aio.lose()

        lease = client.lease(10, on_lost=client.close)
        client.background.run(lose)
        assert told.wait(5) and isinstance(errors[0], UsageError)
        client.put("k", "it goes on")
