"""Leases: renewed by themselves, lost in time."""

import asyncio

import pytest
from fake_server import asynchronous, now_s, running, until

from troth import aio
from troth.client import lease as lease_module
from troth.errors import LeaseExists, LeaseNotFound, Unavailable, UsageError
from troth.kv.requests import LeaseRevoke
from troth.replica.protocol import LeaseKeepAlive

pytestmark = pytest.mark.slow


@asynchronous
async def test_keys_of_a_lease_vanish_with_it() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        async with client.lease(10) as lease:
            await client.put("a", "1", lease=lease.id)
            assert lease.is_alive and lease.ttl_s == 10
            view = await lease.time_to_live(keys=True)
            assert (view.granted_ttl_s, view.keys) == (10, [b"a"])
            assert await client.leases() == [lease.id]
            assert await lease.keep_alive() == 10
        assert not lease.is_alive and not lease.lost.is_set()
        assert (await client.get("a")).kv is None
        with pytest.raises(LeaseNotFound):
            await client.put("a", "1", lease=lease.id)


@asynchronous
async def test_a_lease_can_be_asked_for_by_number() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        assert (await client.lease(10, 77)).id == 77
        with pytest.raises(LeaseExists):
            await client.lease(10, id=77)
        with pytest.raises(UsageError, match="at least 1"):
            await client.lease(0)


@asynchronous
async def test_leases_are_renewed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEWALS_PER_TTL", 100)
    async with running() as cluster, await aio.connect(cluster.url) as client:
        leases = await asyncio.gather(*(client.lease(2) for _ in range(5)))
        before = [lease.deadline_s for lease in leases]

        def renewals() -> list[LeaseKeepAlive]:
            return [message for message in cluster.servers[0].received if isinstance(message, LeaseKeepAlive)]

        await until(lambda: len(renewals()) >= 3)
        assert all(sorted(message.ids) == sorted(lease.id for lease in leases) for message in renewals())
        assert all(lease.deadline_s > earlier for lease, earlier in zip(leases, before, strict=True))
        await client.lease(2, keep=False)
        count = len(renewals())
        await until(lambda: len(renewals()) > count)
        assert len(renewals()[-1].ids) == 5


@asynchronous
async def test_a_lease_that_the_server_has_lost_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEWALS_PER_TTL", 100)
    async with running() as cluster, await aio.connect(cluster.url) as client:
        told: list[str] = []

        async def tell() -> None:
            told.append("coroutine")

        lease = await client.lease(5, on_lost=lambda: told.append("function"))
        lease.on_lost(tell)
        cluster.store.apply(LeaseRevoke(lease.id))
        revoked_s = now_s()
        await lease.lost.wait()
        assert now_s() - revoked_s < 1
        assert not lease.is_alive
        await until(lambda: told == ["function", "coroutine"])
        lease.on_lost(lambda: told.append("late"))
        assert told[-1] == "late"
        with pytest.raises(LeaseNotFound):
            await lease.keep_alive()


@asynchronous
async def test_a_lease_that_cannot_be_renewed_is_lost_before_the_server_can_end_it() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        asked_s = now_s()
        lease = await client.lease(2)
        granted_s = now_s()
        cluster.servers[0].stop()
        await lease.lost.wait()
        lost_s = now_s()
        assert lost_s < granted_s + 2, "the server's time began no later than its answer"
        assert lost_s > asked_s + 1.5


@asynchronous
async def test_a_lease_that_was_long_in_coming_is_renewed_before_it_is_given() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        await client.put("warm", "")
        cluster.elect(None)
        asked = asyncio.ensure_future(client.lease(2).__aenter__())
        await asyncio.sleep(0.8)
        cluster.elect(cluster.servers[0])
        lease = await asked
        assert lease.deadline_s - now_s() > 1.5


@asynchronous
async def test_leases_of_a_closed_client_count_as_lost() -> None:
    async with running() as cluster:
        client = await aio.connect(cluster.url)
        lease = await client.lease(5)
        await client.close()
        assert lease.lost.is_set() and not lease.is_alive


@asynchronous
async def test_a_lease_that_was_granted_late_is_not_told_as_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(lease: lease_module.Lease) -> int:
        raise Unavailable("no leader")

    monkeypatch.setattr(lease_module, "RENEWALS_PER_TTL", 10**9)
    monkeypatch.setattr(lease_module.Lease, "keep_alive", refused)
    async with running() as cluster, await aio.connect(cluster.url) as client:
        lease = await client.lease(10, keep=False)
        assert lease.is_alive and await client.leases() == [lease.id]


@asynchronous
async def test_a_lease_about_to_be_renewed_is_lost_when_the_client_is_closed() -> None:
    async with running() as cluster, await aio.connect(cluster.url) as client:
        lease = await client.lease(10)
        client._leases._due[0] = (0.0, 0, lease)
        client._leases._wake()
        await client.close()
        assert lease.lost.is_set() and not lease.is_alive


@asynchronous
async def test_an_on_lost_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def fail() -> None:
        raise RuntimeError("as asked")

    async with running() as cluster, await aio.connect(cluster.url) as client:
        failures: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        await client.lease(1, keep=False, on_lost=fail)
        kept = await client.lease(2, on_lost=lambda: told.append("kept"))
        await until(lambda: bool(failures))
        deadline_s = kept.deadline_s
        await until(lambda: kept.deadline_s > deadline_s or kept.lost.is_set())
        assert kept.is_alive
        kept.on_lost(fail)
        await client.close()
        assert told == ["kept"] and [str(context["exception"]) for context in failures] == ["as asked"] * 2
        assert all(client.servers().values()), "the client is not closed"
