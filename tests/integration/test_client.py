"""The client against real servers that are killed, paused and restarted under it."""

import asyncio
import contextlib
import inspect
import random
import re
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from real_cluster import cluster_of, replicas_agree

import troth
from troth import aio
from troth.cli.certs import parse_server, write_set
from troth.client import recording, replicated
from troth.errors import NotApplied, RequestTimeout, TrothError, Unavailable
from troth.server.local import LocalCluster

pytestmark = pytest.mark.integration


class Tally(troth.Replicated):
    """Counts names, each once for every call."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    @troth.command
    def add(self, name: str) -> int:
        """Count *name* once more."""
        self.counts[name] = self.counts.get(name, 0) + 1
        return self.counts[name]


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


@contextlib.asynccontextmanager
async def troubled(cluster: LocalCluster, *, rounds: int, seed: int) -> AsyncIterator[asyncio.Event]:
    """Kill or pause a server (mostly the leader) *rounds* times; the event is set when all is well again."""
    over = asyncio.Event()

    async def trouble() -> None:
        rng = random.Random(seed)
        try:
            for round_number in range(rounds):
                await asyncio.sleep(rng.uniform(0.1, 0.4))
                leader = await in_thread(cluster.leader)
                name = leader if rng.random() < 0.7 else rng.choice(cluster.names)
                if round_number % 2:
                    cluster.pause(name)
                    await asyncio.sleep(rng.uniform(0.2, 1.5))
                    cluster.resume(name)
                else:
                    await in_thread(cluster.kill, name)
                    await asyncio.sleep(rng.uniform(0.0, 0.5))
                    await in_thread(cluster.restart, name)
        finally:
            over.set()

    task = asyncio.ensure_future(trouble())
    try:
        yield over
    finally:
        await task


@pytest.mark.usefixtures("consensus")
async def test_what_clients_saw_is_linearizable_while_leaders_die(tmp_path: Path) -> None:
    """Puts, gets, deletes and compare-and-sets of five clients, and what a sixth was shown of them, over kills and
    pauses; judged by troth.verify."""
    from troth.verify.check import check
    from troth.verify.formats.read import read_history
    from troth.verify.linearizability.dispatch import check_linearizable
    from troth.verify.models import Register
    from troth.verify.verdict import Status

    path = tmp_path / "history.jsonl"
    with cluster_of() as cluster, troth.recording(path):
        async with troubled(cluster, rounds=6, seed=1) as over:

            async def use(number: int) -> None:
                rng = random.Random(number)
                async with await aio.connect(cluster.url, timeout=2, session=number % 2 == 0) as client:
                    count = 0
                    while not over.is_set():
                        count += 1
                        key, value = f"k{rng.randrange(4)}", f"{number}.{count}"
                        with contextlib.suppress(TrothError):
                            match rng.randrange(8):
                                case 0:
                                    await client.delete(key)
                                case 1:
                                    old = (await client.get(key)).value or b""
                                    await client.txn([troth.value(key) == old], [troth.Put(key, value)])
                                case 2 | 3:
                                    await client.put(key, value)
                                case _:
                                    await client.get(key)
                        await asyncio.sleep(0.001)

            async def look_on() -> None:
                async with await aio.connect(cluster.url, timeout=20) as client, client.watch(prefix="k") as watch:
                    while not over.is_set():
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(watch.next_events(), 1)

            await asyncio.gather(look_on(), *(use(number) for number in range(5)))
    history = read_history(path.read_bytes())
    assert len(history) > 1000
    verdict = check_linearizable(history, Register())
    assert verdict.status is Status.OK, verdict
    shown = check(history, "watch")
    assert shown.status is Status.OK, shown.text()
    assert sum(part.events for part in shown.parts) > 100


@pytest.mark.usefixtures("consensus")
async def test_increments_happen_once_whatever_happens_to_servers() -> None:
    """Each write demands that the one before it took effect exactly once; nobody sees an error."""
    with cluster_of() as cluster:
        async with (
            troubled(cluster, rounds=6, seed=2) as over,
            await aio.connect(cluster.url, timeout=20) as client,
        ):

            async def count(name: str) -> int:
                done = 0
                while not over.is_set():
                    reply = await client.txn([troth.version(name) == done], [troth.Put(name, str(done))])
                    assert reply.succeeded, f"increment {done} of {name} did not happen exactly once"
                    done += 1
                return done

            counts = await asyncio.gather(*(count(f"w{number}") for number in range(16)))
            assert min(counts) > 50
        replicas_agree(cluster)


@pytest.mark.usefixtures("consensus")
async def test_a_watch_misses_and_repeats_nothing_over_fail_overs() -> None:
    with cluster_of() as cluster:
        async with await aio.connect(cluster.url, timeout=20) as writer, await aio.connect(cluster.url) as client:
            async with client.watch(prefix="k") as watch, troubled(cluster, rounds=5, seed=3) as over:
                written: list[bytes] = []

                async def write() -> None:
                    while not over.is_set():
                        value = str(len(written)).encode()
                        await writer.put(f"k{len(written) % 5}", value)
                        written.append(value)

                writing = asyncio.ensure_future(write())
                seen: list[bytes] = []
                while not (over.is_set() and writing.done() and len(seen) >= len(written)):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            seen += [event.kv.value for event in await watch.__anext__()]
                await writing
                assert len(written) > 100 and seen == written


async def test_an_idle_watch_survives_a_compaction_and_the_death_of_its_server() -> None:
    with cluster_of() as cluster:
        async with await aio.connect(cluster.url, timeout=20) as writer, await aio.connect(cluster.url) as client:
            async with client.watch("idle") as watch:
                for number in range(20):
                    newest = (await writer.put("other", str(number))).revision
                await writer.compact(newest)
                await in_thread(cluster.kill, await in_thread(cluster.leader))
                await writer.put("idle", "1")
                async with asyncio.timeout(20):
                    assert [event.kv.value for event in await watch.__anext__()] == [b"1"]


async def test_replicated_objects_agree_over_fail_overs() -> None:
    with cluster_of() as cluster:
        clients = [await aio.connect(cluster.url, timeout=20) for _ in range(3)]
        holders = [await Tally.on(client, "tallies/a") for client in clients]
        async with troubled(cluster, rounds=4, seed=4) as over:

            async def add(number: int) -> int:
                done = 0
                while not over.is_set():
                    done += 1
                    assert await holders[number].add(f"h{number}") == done
                return done

            counts = await asyncio.gather(*(add(number) for number in range(3)))
        expected = {f"h{number}": count for number, count in enumerate(counts)}
        for holder in holders:
            assert await holder.read(lambda tally: dict(tally.counts)) == expected
        async with await aio.connect(cluster.url) as late:
            assert await (await Tally.on(late, "tallies/a")).read(lambda tally: dict(tally.counts)) == expected
        for client in clients:
            await client.close()


async def test_a_lease_outlives_its_leader_and_ends_with_its_holder() -> None:
    with cluster_of() as cluster:
        async with await aio.connect(cluster.url) as observer:
            holder = await aio.connect(cluster.url)
            lease = await holder.lease(6)
            await holder.put("held", "1", lease=lease.id)
            await in_thread(cluster.kill, await in_thread(cluster.leader))
            renewed = asyncio.get_running_loop().time() + lease.ttl_s
            while lease.is_alive and lease.deadline_s < renewed:  # noqa: ASYNC110  (a renewal announces nothing)
                await asyncio.sleep(0.01)
            assert lease.is_alive and (await observer.get("held")).value == b"1"
            async with observer.watch("held") as watch:
                await holder.close()
                (event,) = await watch.__anext__()
                assert event.type.name == "DELETE"


async def test_sessions_survive_a_restart_of_all_servers() -> None:
    with cluster_of() as cluster:
        async with await aio.connect(cluster.url, timeout=20) as client:
            session = client.session()
            await session.put("k", "1")
            for name in cluster.names:
                await in_thread(cluster.kill, name)
            waiting = client.txn([troth.version("k") == 1], [troth.Put("k", "2")])
            for name in cluster.names:
                await in_thread(lambda name=name: cluster.restart(name, wait=False))
            assert (await waiting).succeeded
            assert (await session.get("k")).value in (b"1", b"2")
            assert (await client.get("k")).value == b"2"


def test_the_synchronous_client_over_unix_sockets(tmp_path: Path) -> None:
    with cluster_of(transport="pipe") as cluster, cluster.connect() as client:
        assert cluster.url.startswith("troth://unix:")
        with client.watch(prefix="") as watch:
            client.put("a", "1")
            assert [event.kv.key for event in next(watch)] == [b"a"]
        with client.lease(5) as lease:
            client.put("b", "2", lease=lease.id)
        assert client.range(prefix="", keys_only=True).count == 1
        assert client.get("a", level=troth.bounded(seconds=2)).value == b"1"
        assert client.get("a", level=troth.session).value == b"1"
        assert client.snapshot(tmp_path / "state") > 0
        before = client.status()[0].leader
        follower = next(peer for peer in client.members() if peer.node_id != before)
        client.transfer(follower.node_id)
        client.put("c", "3")
        assert client.leader == follower.node_id
        tally = Tally.on(client, "tally")
        assert [tally.add("x"), tally.add("x")] == [1, 2]
        assert tally.read(lambda t: t.counts["x"]) == 2


def test_clients_without_the_cluster_s_certificates_are_kept_out(tmp_path: Path) -> None:
    write_set(tmp_path, [parse_server("server=127.0.0.1,localhost")], days=1)
    material = {
        "tls_ca": str(tmp_path / "ca.pem"),
        "tls_cert": str(tmp_path / "server.pem"),
        "tls_key": str(tmp_path / "server.key"),
    }
    with cluster_of(**material) as cluster:
        addresses = cluster.url.partition("://")[2].partition("?")[0]
        files = f"ca={tmp_path}/ca.pem&cert={tmp_path}/client.pem&key={tmp_path}/client.key"
        with troth.connect(f"troth+tls://{addresses}?{files}") as client:
            client.put("a", "1")
            assert client.get("a").value == b"1"
        for stranger in (
            f"troth://{addresses}",
            f"troth+tls://{addresses}",
            f"troth+tls://{addresses}?ca={tmp_path}/ca.pem",
        ):
            with pytest.raises(NotApplied):
                troth.connect(stranger, timeout=1.0)


def example(documented: object) -> str:
    """The first code block of a docstring."""
    text = inspect.getdoc(documented) or ""
    _, _, after = text.partition("::\n\n")
    block = re.match(r"(?:(?:    .*)?\n)+", after + "\n")
    assert block is not None
    return textwrap.dedent(block.group())


def test_the_examples_in_docstrings_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with cluster_of(1) as cluster:
        with cluster.connect() as client:
            for documented in (replicated, recording, troth.Client.watch):
                exec(example(documented), {"troth": troth, "client": client})
        assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 3

        async def run() -> None:
            async with await aio.connect(cluster.url) as client:
                for documented in (aio.AsyncClient.txn, aio.AsyncClient.watch):
                    code = "async def f():\n" + textwrap.indent(example(documented), "    ")
                    names: dict[str, Any] = {"troth": troth, "client": client}
                    exec(code, names)
                    await names["f"]()

        asyncio.run(run())


def test_a_call_has_a_time_out_of_its_own_when_servers_are_silent() -> None:
    with cluster_of(3) as cluster, cluster.connect(timeout=30) as client:
        client.put("a", "1")
        for name in cluster.names:
            cluster.pause(name)
        for call in (lambda: client.put("b", "2", timeout=0.2), lambda: client.get("a", timeout=0.2)):
            began = time.monotonic()
            with pytest.raises((RequestTimeout, Unavailable)):
                call()
            assert time.monotonic() - began < 15
        for name in cluster.names:
            cluster.resume(name)
        client.put("c", "3")
        assert client.get("b").value == b"2", "it was on its way, so it was applied in the end"
