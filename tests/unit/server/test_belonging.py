"""Whose a data directory is, and what a server that can not start leaves behind: whole servers on loopback."""

import asyncio
import contextlib
import logging
import os
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from troth.cli.certs import parse_server, write_set
from troth.core.interface import Member, Membership
from troth.errors import IdentityLost, Removed, StorageError, UsageError, WrongCluster, WrongEngine
from troth.ids import ClusterId, NodeId
from troth.runtime import genesis
from troth.runtime.genesis import Introduction, probe
from troth.server.belonging import VISITORS_MAX, Reception, check_asked_for, introduction
from troth.server.config import ServerConfig
from troth.server.ending import exit_code
from troth.server.free_port import free_port
from troth.server.server import Server
from troth.storage.identity import Identity
from troth.storage.names import LOCK
from troth.wire.handshake import Hello


@contextlib.asynccontextmanager
async def running(config: ServerConfig) -> AsyncIterator[Server]:
    server = Server(config)
    try:
        await server.start()
        yield server
    finally:
        await server.stop()


def config_of(directory: Path, name: str, **settings: object) -> ServerConfig:
    ports = {each: f"127.0.0.1:{free_port()}" for each in ("client_address", "peer_address")}
    return ServerConfig(name=name, data_dir=str(directory / name), **{**ports, **settings})  # type: ignore[arg-type]


def again(config: ServerConfig, **settings: object) -> ServerConfig:
    """The same server with other settings."""
    return ServerConfig(
        name=config.name,
        data_dir=config.data_dir,
        client_address=config.client_address,
        peer_address=config.peer_address,
        **settings,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("setting", ["client_address", "peer_address", "metrics_address"])
async def test_a_server_that_can_not_listen_founds_nothing(tmp_path: Path, setting: str) -> None:
    """Started again with the right settings (and --join) it would else lead a cluster of its own."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = config_of(tmp_path, "n1", **{setting: f"127.0.0.1:{taken.getsockname()[1]}"})
        with pytest.raises(UsageError, match="can not be listened on"):
            async with running(config):
                pass
    assert os.listdir(config.data_dir) == [LOCK]


async def test_a_server_that_can_not_write_its_trace_founds_nothing(tmp_path: Path) -> None:
    config = config_of(tmp_path, "n1", trace_file="/dev/null/x")
    with pytest.raises(UsageError, match=r"^trace_file: /dev/null/x can not be written \(Not a directory\)"):
        async with running(config):
            pass
    assert os.listdir(config.data_dir) == [LOCK]


async def test_a_trace_may_stand_in_a_data_directory_that_is_made_for_it(tmp_path: Path) -> None:
    trace = tmp_path / "n1" / "trace.jsonl"
    async with running(config_of(tmp_path, "n1", trace_file=str(trace))):
        assert trace.stat().st_size


async def test_a_server_that_could_not_serve_once_the_cluster_is_founded_does_not_found_it(tmp_path: Path) -> None:
    """The others would wait for a member that never answers."""
    founders = {name: f"127.0.0.1:{free_port()}" for name in ("n1", "n2")}
    n1 = config_of(tmp_path, "n1", peer_address=founders["n1"], initial_cluster=founders)
    n2 = config_of(
        tmp_path,
        "n2",
        client_address=n1.client_address,
        peer_address=founders["n2"],
        initial_cluster=founders,
    )
    first = Server(n1)
    waiting = asyncio.create_task(first.start())
    try:
        while not first._ports:  # noqa: ASYNC110
            await asyncio.sleep(0)
        with pytest.raises(UsageError, match=r"client_listen.*can not be listened on"):
            async with running(n2):
                pass
        assert os.listdir(n2.data_dir) == [LOCK]
    finally:
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await first.stop()


async def test_certificates_that_are_put_right_while_a_cluster_is_founded_found_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP is the first thing to try for whoever has got them wrong."""
    dialed: list[ssl.SSLContext | None] = []

    async def noted(address: str, tls: ssl.SSLContext | None = None) -> Introduction:
        dialed.append(tls)
        return await probe(address, tls)

    monkeypatch.setattr(genesis, "probe", noted)
    founders = {name: f"127.0.0.1:{free_port()}" for name in ("n1", "n2")}

    def founder(name: str, certificates: str) -> Server:
        here = tmp_path / certificates
        write_set(here, [parse_server(f"{name}=127.0.0.1")], days=60)
        files = {"tls_ca": "ca.pem", "tls_cert": f"{name}.pem", "tls_key": f"{name}.key"}
        paths = {setting: str(here / file) for setting, file in files.items()}
        config = config_of(tmp_path, name, peer_address=founders[name], initial_cluster=founders, **paths)
        return Server(config)

    n1, n2 = founder("n1", "wrong"), founder("n2", "right")
    starting = [asyncio.create_task(each.start()) for each in (n1, n2)]
    try:
        async with asyncio.timeout(20):
            while not dialed:  # noqa: ASYNC110
                await asyncio.sleep(0)
            write_set(tmp_path / "right", [parse_server("n1=127.0.0.1")], days=60)
            for file in ("ca.pem", "n1.pem", "n1.key"):
                shutil.copy(tmp_path / "right" / file, tmp_path / "wrong" / file)
            n1.reload()
            await asyncio.gather(*starting)
    finally:
        for each in starting:
            each.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        for server in (n1, n2):
            await server.stop()


async def test_a_server_that_can_not_listen_does_not_join(tmp_path: Path) -> None:
    """It would stay in the cluster as a member that never answers."""
    first = config_of(tmp_path, "n1")
    async with running(first) as server:
        config = config_of(tmp_path, "n2", client_address=first.client_address, join=(first.client_address,))
        with pytest.raises(UsageError, match=r"client_listen.*can not be listened on"):
            async with running(config):
                pass
        assert [peer.member.name for peer in server.status().peers] == ["n1"]


async def test_a_cluster_of_one_is_not_served_in_the_name_of_the_one_to_join(tmp_path: Path) -> None:
    alone, other = config_of(tmp_path, "n1"), config_of(tmp_path, "m1")
    async with running(alone):
        pass
    async with running(other):
        with pytest.raises(IdentityLost, match=f"no other member than n1, but {other.client_address} of join"):
            async with running(again(alone, join=(other.client_address,))):
                pass
    async with running(again(alone)):
        pass


async def test_a_cluster_of_one_is_not_served_in_the_name_of_a_larger_one(tmp_path: Path) -> None:
    alone = config_of(tmp_path, "n1")
    async with running(alone):
        pass
    asked = {"n1": alone.peer_address, "n2": "127.0.0.1:1"}
    with pytest.raises(IdentityLost, match=r"initial_cluster names n1, n2, while its members are n1\. To serve"):
        async with running(again(alone, initial_cluster=asked)):
            pass


async def test_the_same_settings_again_are_no_news(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = config_of(tmp_path, "n1")
    first = again(first, initial_cluster={"n1": first.peer_address})
    second = config_of(tmp_path, "n2", join=(first.client_address,))
    with caplog.at_level(logging.WARNING):
        async with running(first):
            async with running(second):
                pass
            async with running(second) as server:
                if server._checking is not None:
                    await server._checking
        async with running(first):
            pass
    assert [record.message for record in caplog.records if record.name == "troth.server"] == []


def members(*names: str) -> Membership:
    nodes = {NodeId(number): Member(name) for number, name in enumerate(names, 1)}
    return Membership(voters=tuple(nodes), members=nodes)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("n1", "n2"), ""),
        (("n1", "n2", "n3"), ""),
        (("n1", "n2", "n4"), "initial_cluster names n1, n2, n4, while its members are n1, n2, n3"),
    ],
)
async def test_a_member_goes_on_with_a_warning(
    asked: tuple[str, ...], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What the cluster began with and what it is now are both right; its members are needed whatever a flag says."""
    config = ServerConfig(
        name="n1",
        data_dir="d",
        peer_address="h:1",
        initial_cluster={name: f"h:{number}" for number, name in enumerate(asked, 1)},
    )
    who = Identity(ClusterId(7), NodeId(1), "n1", members("n1", "n2"))
    await check_asked_for(config, who, members("n1", "n2", "n3"), tls=None)
    assert told in caplog.text and bool(told) == bool(caplog.records)


async def test_nobody_at_the_address_to_join_is_told_by_who_is_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(tmp_path, "n1", join=(f"127.0.0.1:{free_port()}",))
    who = Identity(ClusterId(7), NodeId(1), "n1", members("n1"))
    await check_asked_for(config, who, members("n1"), tls=None)
    assert "join has no effect, and nobody answers there" in caplog.text


@pytest.mark.parametrize("genesis", [members("n1"), Membership(voters=())], ids=["founder", "added"])
async def test_who_founded_its_cluster_does_not_wait_to_be_added_to_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, genesis: Membership
) -> None:
    """Who was added may be all that is left of its cluster, and is started as it always was."""
    config = config_of(tmp_path, "n1", await_add=True)
    who = Identity(ClusterId(7), NodeId(1), "n1", genesis)
    if genesis.voters:
        with pytest.raises(
            IdentityLost, match="no other member than n1, but await_add asks to be added to another"
        ):
            await check_asked_for(config, who, members("n1"), tls=None)
    else:
        await check_asked_for(config, who, members("n1"), tls=None)
    await check_asked_for(config, who, members("n1", "n2"), tls=None)
    assert ("await_add" in caplog.text) is bool(genesis.voters)


async def test_a_server_waits_to_be_added_until_it_was(tmp_path: Path) -> None:
    config = config_of(tmp_path, "n1", await_add=True)
    who = Identity(ClusterId(7), NodeId(1), "n1", Membership(voters=()))
    assert introduction(config, NodeId(1), None).awaits_add
    assert not introduction(config, NodeId(1), who).awaits_add


async def test_who_dialled_before_a_server_was_ready_and_has_gone_leaves_its_place() -> None:
    introduced: list[object] = []
    reception = Reception("n1", introduced.append)
    transports = [MagicMock() for _ in range(VISITORS_MAX + 1)]
    visitors = [reception.accept() for _ in transports]
    for visitor, transport in zip(visitors, transports, strict=True):
        visitor.transport = transport
        visitor.on_opened()
    assert [transport.abort.called for transport in transports] == [False] * VISITORS_MAX + [True]
    visitors[0].on_closed(None)
    late = reception.accept()
    late.transport = MagicMock()
    late.on_opened()
    assert not late.transport.abort.called
    late.on_greeting(Hello("probe"))
    assert introduced == [late]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("a setting"), 2),
        (StorageError("the disk, or another process has the directory"), 3),
        (IdentityLost("another server's, or another cluster's"), 4),
        (WrongEngine("another engine's"), 4),
        (Removed("from the cluster"), 5),
        (WrongCluster("refused by the others"), 1),
        (KeyError("a bug"), 70),
    ],
)
def test_exit_codes_are_as_the_help_says(error: Exception, code: int) -> None:
    assert exit_code(error) == code
