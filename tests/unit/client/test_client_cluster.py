"""What can be asked of a cluster besides its data."""

import asyncio
import errno
import io
import os
from pathlib import Path

import pytest
from fake_server import asynchronous, running, until

from troth import aio
from troth.client import cluster as cluster_module
from troth.errors import NotApplied, OutcomeUnknown, Unavailable, UsageError
from troth.ids import ClusterId, NodeId
from troth.kv.requests import Alarm, AlarmType
from troth.replica.protocol import ChangeMembers, TransferLeadership
from troth.storage.backup import SEAL_BYTES, opened
from troth.wire.handshake import Rejected


@asynchronous
async def test_statuses_come_from_every_server_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "STATUS_WITHIN_S", 0.1)
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        assert sorted(status.name for status in await client.status()) == ["n1", "n2", "n3"]
        cluster.servers[1].stop()
        assert sorted(status.name for status in await client.status(within_s=0.1)) == ["n1", "n3"]
        assert [status.name for status in await client.status("n3")] == ["n3"]
        assert [status.name for status in await client.status("3")] == ["n3"]
        with pytest.raises(Unavailable):
            await client.status("n2", within_s=0.1)
        cluster.servers[1].kill()
        assert client.leader == NodeId(1)
        assert [peer.member.name for peer in await client.members()] == ["n1", "n2", "n3"]


@asynchronous
async def test_statuses_come_from_servers_that_the_url_does_not_name() -> None:
    async with running(3) as cluster, await aio.connect(f"troth://{cluster.servers[0].address}") as client:
        assert sorted(status.name for status in await client.status()) == ["n1", "n2", "n3"]


@asynchronous
async def test_a_server_that_is_still_being_connected_is_waited_for_but_not_for_ever() -> None:
    async with running(3) as cluster:
        late = cluster.servers[2]
        late.stop()
        async with await aio.connect(cluster.url) as client:
            assert sorted(status.name for status in await client.status(within_s=0.05)) == ["n1", "n2"]
            asyncio.get_running_loop().call_later(0.05, late.go_on)
            assert sorted(status.name for status in await client.status()) == ["n1", "n2", "n3"]


@asynchronous
async def test_without_a_leader_nobody_says_that_there_is_no_such_member() -> None:
    """Whoever asks for a removal, and is told that, may wipe a server that is still needed to decide it."""
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        await client.put("warm", "")
        cluster.elect(None)
        with pytest.raises(Unavailable, match="no leader says whether a member is called 'n9'"):
            await client.remove_member("n9")


@asynchronous
async def test_replicas_can_be_compared_by_hash() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        await client.put("a", "1")
        hashes = await client.hash()
        assert sorted(hashes) == ["n1", "n2", "n3"]
        assert len({answer.hash for answer in hashes.values()}) == 1
        assert list(await client.hash("n2")) == ["n2"]


@asynchronous
async def test_members_are_named_as_people_name_them() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        await client.remove_member("n3")
        await client.promote_member(cluster.servers[1].address)
        await client.transfer("n2")
        await client.transfer()
        server = cluster.servers[0]
        changes = [message.change for message in server.received if isinstance(message, ChangeMembers)]
        assert [(change.remove, change.promote) for change in changes] == [((3,), ()), ((), (2,))]
        transfers = [message.target for message in server.received if isinstance(message, TransferLeadership)]
        assert transfers == [2, 0]
        with pytest.raises(UsageError, match="no member is called 'n9'"):
            await client.remove_member("n9")


@asynchronous
async def test_a_server_whose_acceptor_has_a_seat_is_not_removed_unless_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The set of acceptors does not follow the members: with the last of them the registers would be gone."""
    monkeypatch.setattr(cluster_module, "STATUS_WITHIN_S", 0.1)
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        one, two, three = cluster.servers

        def removals() -> list[tuple[NodeId, ...]]:
            asked = [message for server in cluster.servers for message in server.received]
            return [message.change.remove for message in asked if isinstance(message, ChangeMembers)]

        one.acceptor = two.acceptor = {"seats": 1, "epoch": 2}
        with pytest.raises(UsageError, match=r"^n2 is one of the acceptors (?s:.*)troth paxos acceptors set"):
            await client.remove_member("n2")
        await client.remove_member("n3")
        assert removals() == [(three.node_id,)]
        three.kill()
        with pytest.raises(UsageError, match=r"^n3 does not answer, and may be one"):
            await client.remove_member("n3")
        await client.remove_member("n3", despite_registers=True)
        two.acceptor = {"seats": 0, "epoch": 2}
        await client.remove_member("n2")
        two.acceptor = {"seats": 1, "epoch": 1}
        await client.remove_member("n2")  # nobody has told it that another has its seat now
        assert [len(removals()), *removals()[-2:]] == [4, (two.node_id,), (two.node_id,)]


@asynchronous
async def test_a_server_that_was_lost_is_not_said_to_be_silent() -> None:
    async with running(1) as cluster, await aio.connect(cluster.url) as client:
        (server,) = cluster.servers
        server.kill()
        await until(lambda: bool(client.servers()[server.address]))
        assert "no word from it" not in client.servers()[server.address]


@asynchronous
async def test_a_server_that_does_not_answer_is_not_added() -> None:
    """Who is asked, and what is refused then: integration/test_newcomers.py, since a fake would say what we expect."""
    async with running(1) as cluster, await aio.connect(cluster.url) as client:
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1: "):
            await client.add_member(client_address="127.0.0.1:1")
        assert not [message for message in cluster.servers[0].received if isinstance(message, ChangeMembers)]


@asynchronous
async def test_a_change_is_not_sent_twice_while_its_fate_is_unknown() -> None:
    async with running(1) as cluster, await aio.connect(cluster.url) as client:
        server = cluster.servers[0]
        server.refusals.append(("unavailable", "another change is under way", ""))
        await client.remove_member(3)
        server.refusals.append(("invalid", "no such member", ""))
        with pytest.raises(NotApplied, match="no such member"):
            await client.remove_member(4)
        server.refusals.append(("leadership_lost", "who knows", ""))
        with pytest.raises(OutcomeUnknown, match="who knows"):
            await client.remove_member(5)


@asynchronous
async def test_alarms_are_shown_and_cleared() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        cluster.store.apply(Alarm(True, 1, AlarmType.NOSPACE))
        assert [alarm.alarm for alarm in await client.alarms()] == [AlarmType.NOSPACE]
        assert [alarm.member for alarm in await client.disarm()] == [1]
        assert await client.alarms() == []


@asynchronous
async def test_what_no_server_has_said_is_not_told_as_none() -> None:
    async with running(1) as cluster, await aio.connect(cluster.url) as client:
        cluster.servers[0].kill()
        await until(lambda: all(client.servers().values()))
        for ask in (client.alarms, client.disarm, client.hash):
            with pytest.raises(Unavailable, match="127"):
                await ask()


@asynchronous
async def test_a_member_without_a_name_is_nobody() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        cluster.servers[1].name = ""
        for change in (client.transfer, client.remove_member, client.promote_member):
            with pytest.raises(UsageError, match="no member is called ''"):
                await change("")
        asked = [message for server in cluster.servers for message in server.received]
        assert not [message for message in asked if isinstance(message, TransferLeadership | ChangeMembers)]


@asynchronous
async def test_what_a_snapshot_cannot_be_saved_to_is_told_under_its_own_name(tmp_path: Path) -> None:
    async with running(1) as cluster, await aio.connect(cluster.url) as client:
        for nothing in ("", "/", None, 5):
            with pytest.raises(UsageError, match=r"names no file|a path or a file"):
                await client.snapshot(nothing)  # type: ignore[arg-type]
        for wrong in (tmp_path / "nowhere" / "state", tmp_path):
            with pytest.raises(OSError) as caught:
                await client.snapshot(wrong)
            assert caught.value.filename == str(wrong)
        assert os.listdir(tmp_path) == []


@asynchronous
async def test_a_snapshot_is_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(2) as cluster, await aio.connect(cluster.url) as client:
        path = tmp_path / "state"
        assert await client.snapshot(path) == 15 + SEAL_BYTES
        assert b"".join(opened([path.read_bytes()], path="")) == b"part0part1part2", "it can be restored"
        assert path.stat().st_mode & 0o777 == 0o600, "it holds what the data directory does"
        sink = io.BytesIO()
        assert await client.snapshot(sink, server="n1") == 15 + SEAL_BYTES
        assert sink.getvalue() == path.read_bytes()
        for server in cluster.servers:
            server.refusals.append(("overloaded", "too many snapshots", ""))
        with pytest.raises(NotApplied, match="too many snapshots"):
            await client.snapshot(tmp_path / "other")
        cluster.servers[1].stop()
        monkeypatch.setattr("troth.client.greeting.HANDSHAKE_TIMEOUT_S", 0.1)
        with pytest.raises(Unavailable):
            await client.snapshot(tmp_path / "other", server="n2")
        assert os.listdir(tmp_path) == ["state"]


@asynchronous
async def test_a_full_disk_leaves_nothing_of_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        """As a buffered file on a full disk: what is written fits, what is flushed does not."""

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "no space left")

        def close(self) -> None:
            raise OSError(errno.ENOSPC, "no space left")

    def full(path: Path, _mode: str, **_: object) -> Full:
        path.touch()
        return Full()

    async with running(1) as cluster, await aio.connect(cluster.url) as client:
        monkeypatch.setattr("troth.client.backup.open", full, raising=False)
        with pytest.raises(OSError, match="no space"):
            await client.snapshot(tmp_path / "state")
    assert os.listdir(tmp_path) == []


@asynchronous
async def test_a_lock_is_not_lost_to_another_cluster_that_appears_at_an_address() -> None:
    async with running(2) as cluster:
        other = cluster.servers[1]
        other.rejection = Rejected("overloaded", "not yet")
        async with await aio.connect(cluster.url) as client:
            lease = await client.lease(60)
            await client.put("lock", "me", lease=lease.id)
            other.rejection, other.cluster_id = None, ClusterId(0xC2)
            await until(lambda: bool(client.router.foreign))
            assert await lease.keep_alive() == 60 and lease.is_alive
            await client.put("a", "1")
            async with client.watch("a"):
                pass
            other.kill()
            await until(lambda: not client.router.foreign)
