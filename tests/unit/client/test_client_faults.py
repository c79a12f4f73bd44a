"""Servers that fail, and what the client makes of it: nothing lost, nothing twice, no waiting for a time-out."""

import asyncio
import json
import random
from pathlib import Path

import msgspec
import pytest
from fake_server import FakeCluster, asynchronous, now_s, running, until

import troth
from troth import aio
from troth.client import router
from troth.core.interface import MembershipChange
from troth.errors import (
    AnswerLost,
    AnswerTooLarge,
    NotApplied,
    OutcomeUnknown,
    RequestTimeout,
    TrothError,
    Unavailable,
    UsageError,
    WrongCluster,
)
from troth.ids import ClusterId
from troth.models import LevelName
from troth.replica.protocol import LeaderChanged, ReadResults
from troth.wire.frames import frame
from troth.wire.handshake import Rejected

pytestmark = pytest.mark.slow


@asynchronous
async def test_a_write_whose_answer_was_lost_is_applied_once() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        await client.put("warm", "")
        cluster.servers[0].lose_replies = 2
        reply = await client.txn([troth.version("k") == 0], [troth.Put("k", "v")])
        assert reply.succeeded, "a second application would have found the key there"
        assert len(set(cluster.applied)) == len(cluster.applied)


@asynchronous
async def test_a_batch_that_was_cut_off_is_sent_again_unchanged() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        await client.put("warm", "")
        cluster.servers[0].cut_before = 1
        await asyncio.gather(*(client.put(f"k{number}", "v") for number in range(50)))
        first, second = cluster.servers[0].writes()[1:]
        assert first == second and len(first.commands) == 50


@asynchronous
async def test_a_write_that_is_given_up_before_it_is_sent_never_is() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        server = cluster.servers[0]
        await client.put("warm", "")
        server.kill()
        await until(lambda: all(link.connection is None for link in client.router.links.values()))
        kept, dropped, last = (asyncio.ensure_future(client.put(key, "")) for key in ("kept", "dropped", "last"))
        await asyncio.sleep(0)
        alone = asyncio.ensure_future(client.put("alone", ""))
        await asyncio.sleep(0)
        dropped.cancel()
        alone.cancel()
        await server.start()
        assert [reply.revision for reply in await asyncio.gather(kept, last)] == [3, 4]
        await client.put("after", "")
        keys = [[command.key for command in batch.commands] for batch in server.writes()]
        assert keys == [[b"warm"], [b"kept", b"last"], [b"after"]]
        assert client._writes._held == client._writes._in_flight_commands == 0


@asynchronous
async def test_a_write_that_is_given_up_after_it_was_sent_is_sent_again_unchanged() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        server = cluster.servers[0]
        await client.put("warm", "")
        server.answer_after = asyncio.Event()
        writes = [asyncio.ensure_future(client.put(key, "")) for key in ("a", "b")]
        await until(lambda: len(server.writes()) == 2)
        server.kill()
        for write in writes:
            write.cancel()
        server.answer_after = None
        await server.start()
        await client.put("after", "")
        batches = [batch for batch in server.writes() if batch.first_seq == 2]
        assert len(batches) == 2 and batches[0] == batches[1]


@asynchronous
async def test_answers_let_the_cluster_forget() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        for _ in range(5):
            await asyncio.gather(*(client.put("k", "v") for _ in range(3)))
        batches = cluster.servers[0].writes()
        assert [batch.first_seq for batch in batches] == [1, 4, 7, 10, 13]
        assert all(batch.acked_below == batch.first_seq for batch in batches)


@asynchronous
async def test_without_a_session_a_lost_answer_is_told() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url, session=False) as client:
        await client.put("k", "1")
        cluster.servers[0].lose_replies = 1
        with pytest.raises(OutcomeUnknown, match="connection to n1 was lost"):
            await client.put("k", "2")
        assert (await client.get("k")).value == b"2"
        assert not any(session for session, _ in cluster.applied)


@asynchronous
async def test_a_refusal_that_names_the_leader_is_followed() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "1")
        # The leadership moves, but nobody has told this client yet.
        cluster.leader = cluster.servers[1]
        assert (await client.put("b", "2")).server == "n2"
        assert (await client.get("b")).server == "n2"


@asynchronous
async def test_writes_wait_for_a_leader_and_leave_when_it_is_announced() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "1")
        cluster.elect(None)
        waiting = [client.put("b", "2"), client.get("a")]
        await asyncio.sleep(0.1)
        assert not any(future.done() for future in waiting)
        started_s = now_s()
        cluster.elect(cluster.servers[2])
        replies = await asyncio.gather(*waiting)
        assert [reply.server for reply in replies] == ["n3", "n3"]
        assert now_s() - started_s < 1


@asynchronous
async def test_passing_refusals_are_retried_and_lasting_ones_told() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "1")
        server = cluster.servers[0]
        server.refusals.extend([("overloaded", "", ""), ("unavailable", "", ""), ("leadership_lost", "", "")])
        assert (await client.put("b", "2")).revision == 3
        server.refusals.extend([("overloaded", "", ""), ("not_leader", "", "")])
        assert (await client.get("b")).value == b"2"
        server.refusals.append(("quota", "full", ""))
        with pytest.raises(troth.errors.QuotaExceeded, match="full"):
            await client.put("c", "3")
        server.refusals.append(("a code of the future", "what now", ""))
        assert (await client.put("d", "4")).revision == 4, "the session makes it safe to ask again"


@asynchronous
async def test_a_killed_leader_costs_no_time_out() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        await asyncio.gather(*(client.put(f"warm{number}", "") for number in range(10)))
        gate = cluster.servers[0].answer_after = asyncio.Event()
        waiting = [client.put(f"k{number}", "v") for number in range(200)] + [client.get("k0") for _ in range(10)]
        await until(lambda: len(cluster.servers[0].writes()) == 2)
        started_s = now_s()
        cluster.servers[0].kill()
        cluster.elect(cluster.servers[1])
        replies = await asyncio.gather(*waiting)
        assert now_s() - started_s < 1
        assert {reply.server for reply in replies} == {"n2"}
        assert sum(1 for _ in cluster.applied) == 2
        gate.set()


@asynchronous
async def test_a_stopped_leader_is_left_as_soon_as_another_is_announced() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "1")
        cluster.servers[0].stop()
        waiting = [client.put("b", "2"), client.get("a")]
        await asyncio.sleep(0.05)
        assert not any(future.done() for future in waiting)
        started_s = now_s()
        cluster.elect(cluster.servers[1])
        assert [reply.server for reply in await asyncio.gather(*waiting)] == ["n2", "n2"]
        assert now_s() - started_s < 0.3
        cluster.servers[0].go_on()
        assert (await client.put("c", "3")).server == "n2"
        assert len(set(cluster.applied)) == len(cluster.applied)


@asynchronous
async def test_a_leader_that_only_we_cannot_hear_is_reached_through_others() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "1")
        for server in cluster.servers[1:]:
            server.forwards = True
        cluster.servers[0].stop()
        started_s = now_s()
        assert (await client.put("b", "2")).server in ("n2", "n3")
        assert now_s() - started_s < 2


@asynchronous
async def test_a_stopped_follower_does_not_hold_up_weaker_reads() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        reader = (await client.get("a", level=troth.eventual)).server
        stopped = next(server for server in cluster.servers if server.name == reader)
        stopped.stop()
        started_s = now_s()
        assert (await client.get("a", level=troth.eventual)).server != reader
        assert (await client.get("a", level=troth.eventual)).server != reader
        assert now_s() - started_s < 2


@asynchronous
async def test_time_outs_say_whether_it_may_have_happened() -> None:
    async with running(2) as cluster, await aio.connect(cluster.url, timeout=0.3) as client:
        await client.put("a", "1")
        for server in cluster.servers:
            server.stop()
        with pytest.raises(RequestTimeout, match=r"no answer within 0\.3 s"):
            await client.put("b", "2")
        with pytest.raises(Unavailable):
            await client.get("a")
        for server in cluster.servers:
            server.kill()
        await until(lambda: all(client.servers().values()))
        with pytest.raises(Unavailable, match="no leader is known") as caught:
            await client.put("c", "3")
        assert isinstance(caught.value, NotApplied)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("overloaded", Unavailable), ("not_leader", Unavailable), ("leadership_lost", RequestTimeout)],
)
def test_refusals_until_the_end_leave_the_doubt_that_they_leave(code: str, expected: type[Exception]) -> None:
    @asynchronous
    async def run() -> None:
        async with running() as cluster, await aio.connect(cluster.url, timeout=0.3) as client:
            await client.put("a", "1")
            cluster.servers[0].refusals.extend([(code, "", "")] * 1000)
            # The end may come while a sending is on its way; then nobody can know.
            with pytest.raises((expected, RequestTimeout)):
                await client.put("b", "2")

    run()


@asynchronous
async def test_garbage_ends_that_connection_only() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "1")
        for garbage in (
            b"\xff" * 64,
            b"\x04\0\0\0\xff\xff\xff\xff",
            b"\x01\0\0\0\x90",
            b"HTTP/1.1 200 OK\r\n\r\n",
        ):
            for peer in list(cluster.servers[0].peers):
                peer.send_raw(garbage)
            assert (await client.get("a")).value == b"1"


@asynchronous
async def test_servers_of_another_cluster_are_not_talked_to() -> None:
    async with running(2) as cluster:
        cluster.servers[1].cluster_id = ClusterId(0xC2)
        with pytest.raises(WrongCluster):
            async with await aio.connect(cluster.url) as client:
                await until(lambda: bool(client.router.foreign))
                with pytest.raises(WrongCluster):
                    client.watch("a")
                await client.put("a", "1")
        assert cluster.store.revision == 1


@asynchronous
async def test_a_rejected_greeting_is_told_with_its_reason() -> None:
    async with running() as cluster:
        cluster.servers[0].rejection = Rejected("overloaded", "too many clients; raise --clients-max")
        with pytest.raises(Unavailable, match="too many clients"):
            await aio.connect(cluster.url, timeout=0.3)


@asynchronous
async def test_an_expired_session_is_renewed_for_what_was_certainly_not_applied() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "1")
        cluster.sessions.clear()
        assert (await client.put("b", "2")).revision == 3
        sessions = {session for session, _ in cluster.applied}
        assert len(sessions) == 2


@asynchronous
async def test_an_expired_session_leaves_doubt_about_what_may_have_been_applied() -> None:
    async with running(2) as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "1")
        cluster.servers[0].lose_replies = 1
        cluster.sessions[next(iter(cluster.sessions))] = Forgetful(cluster)
        with pytest.raises(OutcomeUnknown, match="session expired"):
            await client.put("b", "2")
        assert (await client.put("c", "3")).revision == 4


class Forgetful(dict):  # type: ignore[type-arg]
    """A session that is gone as soon as it has been used."""

    def __init__(self, cluster: FakeCluster) -> None:
        super().__init__()
        self._cluster = cluster

    def __setitem__(self, key: int, value: object) -> None:
        super().__setitem__(key, value)
        asyncio.get_running_loop().call_soon(self._cluster.sessions.clear)


@asynchronous
async def test_close_ends_what_is_pending_with_typed_errors() -> None:
    async with running() as cluster:
        client = await aio.connect(cluster.url)
        await client.put("a", "1")
        cluster.servers[0].stop()
        sent = client.put("b", "2")
        asked = client.get("b")
        await asyncio.sleep(0.01)
        unsent = client.put("c", "3")
        watch = client.watch("a")
        following = asyncio.ensure_future(watch.next_events())
        await asyncio.sleep(0)
        await client.close()
        assert isinstance(sent.exception(), OutcomeUnknown)
        assert isinstance(asked.exception(), NotApplied)
        assert isinstance(unsent.exception(), OutcomeUnknown | NotApplied)
        with pytest.raises(Unavailable):
            await following
        with pytest.raises(UsageError, match="closed"):
            client.put("d", "4")
        await client.close()


@asynchronous
async def test_one_address_is_enough_to_find_the_others() -> None:
    async with running(3) as cluster, await aio.connect("troth://" + cluster.servers[2].address) as client:
        await until(lambda: sorted(client.servers().values()) == ["", "", ""])
        cluster.servers[2].kill()
        cluster.servers[0].kill()
        cluster.elect(cluster.servers[1])
        assert (await client.put("a", "1")).server == "n2"


@asynchronous
async def test_a_server_under_two_spellings_is_one_server() -> None:
    async with running(2) as cluster:
        port = cluster.servers[0].address.rpartition(":")[2]
        async with await aio.connect(f"troth://localhost:{port}") as client:
            await until(lambda: len(client.servers()) == 2 and not any(client.servers().values()))
            assert set(client.servers()) == {f"localhost:{port}", cluster.servers[1].address}
            assert (await client.put("a", "1")).server == "n1"


@asynchronous
async def test_a_restarted_server_is_found_again() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "1")
        cluster.servers[0].kill()
        write = client.put("b", "2")
        await asyncio.sleep(0.05)
        await cluster.servers[0].start()
        assert (await write).revision == 3


@asynchronous
async def test_a_stale_announcement_changes_nothing() -> None:
    async with running(2) as cluster, await aio.connect(cluster.url) as client:
        cluster.elect(cluster.servers[1])
        await client.put("a", "1")
        for peer in cluster.servers[0].peers:
            peer.send(LeaderChanged(1, cluster.servers[0].node_id, cluster.servers[0].address))
        await client.get("a", level=troth.eventual)
        assert client.leader == cluster.servers[1].node_id


@pytest.mark.parametrize("seed", range(4))
def test_every_write_takes_effect_once_whatever_fails(seed: int) -> None:
    """Kills, lost answers, cut batches, refusals and elections at random; 400 increments must give 400."""

    @asynchronous
    async def run() -> None:
        rng = random.Random(seed)
        async with running(3) as cluster, await aio.connect(cluster.url, timeout=10) as client:

            async def worker(name: str) -> None:
                for count in range(20):
                    # Succeeds only if the last increment took effect exactly once.
                    reply = await client.txn([troth.version(name) == count], [troth.Put(name, str(count))])
                    assert reply.succeeded

            async def trouble() -> None:
                heal_s = now_s() + 0.5
                while now_s() < heal_s:
                    await asyncio.sleep(rng.uniform(0, 0.01))
                    server = rng.choice(cluster.servers)
                    match rng.randrange(6):
                        case 0:
                            server.lose_replies = rng.randrange(3)
                        case 1:
                            server.cut_before = rng.randrange(3)
                        case 2:
                            server.refusals.append((rng.choice(["overloaded", "not_leader", "timeout"]), "", ""))
                        case 3:
                            cluster.elect(rng.choice([server, None]))
                        case 4:
                            server.kill()
                            await asyncio.sleep(rng.uniform(0, 0.02))
                            await server.start()
                        case _:
                            server.forwards = not server.forwards

            workers = [asyncio.ensure_future(worker(f"w{number}")) for number in range(20)]
            await trouble()
            cluster.elect(cluster.servers[0])
            await asyncio.gather(*workers)
            assert len(set(cluster.applied)) == len(cluster.applied)

    run()


@asynchronous
async def test_a_server_that_was_suspected_is_trusted_again_when_it_is_heard() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "1")
        cluster.servers[0].stop()
        write = client.put("b", "2")
        await asyncio.sleep(0.8)
        cluster.elect(cluster.servers[1])
        await write
        cluster.servers[0].go_on()
        cluster.servers[1].stop()
        started_s = now_s()
        cluster.elect(cluster.servers[0])
        assert (await client.put("c", "3")).server == "n1"
        assert now_s() - started_s < 0.3


@asynchronous
async def test_a_connection_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "DEAD_AFTER_S", 0.2)
    monkeypatch.setattr(router, "IDLE_TICK_S", 0.05)
    monkeypatch.setattr(router, "PING_EVERY_S", 0.1)
    async with running(2) as cluster, await aio.connect(cluster.url) as client:
        async with client.watch("a") as watch:
            cluster.servers[0].stop()
            await until(lambda: watch.connection is not None and watch.connection.server == "n2")
            cluster.servers[1].forwards = True
            assert client.servers()[cluster.servers[0].address] != ""


@asynchronous
async def test_a_port_that_hangs_up_on_plain_text_is_told_from_a_dead_one() -> None:
    class HangsUp(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

    listener = await asyncio.get_running_loop().create_server(HangsUp, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    with pytest.raises(Unavailable, match=r"does it want TLS"):
        await aio.connect(f"troth://127.0.0.1:{port}", timeout=0.3)
    listener.close()


@asynchronous
async def test_a_call_may_be_less_patient_than_its_client() -> None:
    async with running() as cluster, await aio.connect(cluster.url, timeout=30) as client:
        await client.put("a", "1")
        (server,) = cluster.servers
        server.stop()
        patient = client.put("b", "2")
        with pytest.raises(RequestTimeout, match=r"no answer within 0\.05 s"):
            await client.put("c", "3", timeout=0.05)
        with pytest.raises(Unavailable, match=r"no answer within 0\.05 s"):
            await client.get("a", timeout=0.05)
        assert not patient.done()
        server.go_on()
        await patient
        # What nobody waited for any more was applied all the same: its outcome was unknown.
        assert (await client.get("c", timeout=30)).value == b"3"


@asynchronous
async def test_a_call_may_be_more_patient_than_its_client() -> None:
    async with running() as cluster, await aio.connect(cluster.url, timeout=0.2) as client:
        await client.put("a", "1")
        (server,) = cluster.servers
        server.stop()
        patient = [client.put("b", "2", timeout=30), client.get("a", timeout=30)]
        others = await asyncio.gather(client.put("c", "3"), client.get("a"), return_exceptions=True)
        assert [type(other) for other in others] == [RequestTimeout, Unavailable]
        server.go_on()
        put, get = await asyncio.gather(*patient)
        assert get.value == b"1" and put.revision > get.revision


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan")])
@asynchronous
async def test_a_time_out_must_be_a_time(seconds: float) -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        for call in (client.put, client.get, client.delete):
            with pytest.raises(UsageError, match="positive number of seconds"):
                await call("a", timeout=seconds)
        assert (await client.get("a")).value is None


@asynchronous
async def test_an_answer_that_was_given_up_is_told_as_done_and_recorded_as_uncertain(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    async with running() as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "1")
        cluster.servers[0].refusals.append(("answer_lost", "the write was applied, but ...", ""))
        with troth.recording(path), pytest.raises(AnswerLost, match="was applied") as caught:
            await client.put("a", "2")
        assert not isinstance(caught.value, NotApplied | OutcomeUnknown)
    assert [json.loads(line)["type"] for line in path.read_text().splitlines()[1:]] == ["invoke", "info"]


@asynchronous
async def test_what_asks_for_too_much_is_not_sent_again() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "1")
        server = cluster.servers[0]
        before = len(server.writes())
        server.refusals.append(("answer_too_large", "ask for less", ""))
        with pytest.raises(AnswerTooLarge, match="ask for less"):
            await client.put("a", "2")
        assert len(server.writes()) == before + 1


@asynchronous
async def test_programs_that_seed_chance_alike_are_two_clients() -> None:
    """One session for both would answer the second's writes with the first's results, and apply them never."""
    async with running() as cluster:
        for key in ("a", "b"):
            random.seed(42)
            async with await aio.connect(cluster.url) as client:
                await client.put(key, "1")
                assert (await client.get(key)).value == b"1"
        assert len(cluster.nonces) == 2


@asynchronous
async def test_a_write_that_waits_behind_a_more_patient_one_ends_in_time() -> None:
    async with running() as cluster, await aio.connect(cluster.url, timeout=0.1) as client:
        cluster.servers[0].stop()  # no session can be opened, so nothing leaves
        patient = client.put("a", "1", timeout=30)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(client.put("b", "2"), 5)
        assert not patient.done()
        cluster.servers[0].go_on()
        await patient


@asynchronous
async def test_an_answer_that_makes_no_sense_leaves_nobody_waiting() -> None:
    async with running() as cluster, await aio.connect(cluster.url, timeout=0.5) as client:
        await client.put("a", "1")
        (server,) = cluster.servers
        server.stop()
        reading = client.get("a")
        await until(lambda: bool(client.router._calls))
        (call,) = client.router._calls
        server.peers[0].send_raw(frame(msgspec.msgpack.encode(ReadResults(call, LevelName.LINEARIZABLE, 2, []))))
        with pytest.raises(Unavailable):
            await asyncio.wait_for(reading, 5)


@asynchronous
async def test_a_server_under_two_addresses_is_kept_under_the_one_that_was_given() -> None:
    async with running(2) as cluster:
        late, leader = cluster.servers
        late.kill()
        cluster.elect(leader)
        named = f"localhost:{late.address.rpartition(':')[2]}"
        async with await aio.connect(f"troth://{named},{leader.address}") as client:
            await client.status()
            assert set(client.servers()) == {named, leader.address, late.address}
            await late.start()
            await until(lambda: set(client.servers()) == {named, leader.address})
            await until(lambda: not any(client.servers().values()) and len(late.peers) == 1)
            assert len(await client.status()) == 2


@asynchronous
async def test_a_call_that_came_to_nothing_says_how_long_it_was_given() -> None:
    async with running() as cluster, await aio.connect(cluster.url, timeout=0.1) as client:
        await client.put("warm", "")
        cluster.servers[0].stop()
        for call in (
            client.put("k", "v", timeout=0.2),
            client.get("k", timeout=0.2),
            client.change_members(MembershipChange(), within_s=0.2),
        ):
            with pytest.raises(TrothError, match=r"within 0\.2 s"):
                await call


@asynchronous
async def test_writes_of_an_expired_session_stay_ahead_of_those_that_waited_behind_them() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        await client.put("k", "0")
        cluster.sessions.clear()
        client._writes._window_commands = 2  # so that the third one waits here
        puts = []
        for number in range(1, 5):
            puts.append(client.put("k", str(number)))
            await asyncio.sleep(0)  # a batch for each
        replies = await asyncio.gather(*puts)
        assert [reply.revision for reply in replies] == [3, 4, 5, 6]
        assert (await client.get("k")).value == b"4"
