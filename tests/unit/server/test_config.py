import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from typing import cast

import pytest
from typing_extensions import override

from troth.errors import UsageError
from troth.server.config import ServerConfig, load_config
from troth.server.listener import Port, check_addresses

NEEDED = {"name": "n1", "data_dir": "/tmp/n1"}


def test_flags_win_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "troth.toml"
    file.write_text('name = "file"\ndata_dir = "/file"\ntick_ms = 5\nheartbeat_ms = 20\n')
    environment = {"TROTH_NAME": "environment", "TROTH_TICK_MS": "8", "HOME": "/"}
    config = load_config({"name": "flag", "quota_bytes": None}, file=file, environment=environment)
    assert (config.name, config.tick_ms, config.heartbeat_ms, config.data_dir) == ("flag", 8, 20, "/file")


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("64MiB", 64 << 20), ("2g", 2 << 30), ("3kB", 3 << 10), ("1TB", 1 << 40)]
)
def test_sizes_are_read_with_units(text: str, size: int) -> None:
    assert load_config({**NEEDED, "quota_bytes": text}).quota_bytes == size


@pytest.mark.parametrize("text", ["", "1XB", "B", "-1", "1.5G"])
def test_what_is_no_size_is_told_the_units(text: str) -> None:
    with pytest.raises(UsageError, match=r"quota_bytes is a number of bytes, also 512MiB.*T: powers of 1024"):
        load_config({**NEEDED, "quota_bytes": text})


def test_a_cluster_is_read_as_text_and_as_a_table(tmp_path: Path) -> None:
    file = tmp_path / "troth.toml"
    file.write_text('[initial_cluster]\nn1 = "a:1"\nn2 = "b:1"\n')
    wanted = {"n1": "a:1", "n2": "b:1"}
    assert load_config({**NEEDED, "initial_cluster": "n1=a:1, n2=b:1"}).initial_cluster == wanted
    from_file = load_config(NEEDED, file=file)
    assert from_file.initial_cluster == wanted
    assert from_file.peer_address == "a:1", "taken from the cluster when it is not given"


@pytest.mark.parametrize(
    ("settings", "advice"),
    [
        ({"name": ""}, "for example n1"),
        ({"name": "a=b"}, "for example n1"),
        *(({"name": name}, "for example n1") for name in (".", "..", "a\x1b[2J", "a\x00", "a\rb", "a\u00a0b")),
        ({"tick": 5}, "did you mean tick_ms"),
        ({"zzz": 5}, "there are: name"),
        ({"tick_ms": "soon"}, "whole number"),
        ({"tick_ms": 0}, "1 to 1000"),
        ({"tick_ms": 300, "heartbeat_ms": 300}, "must divide a second"),
        ({"heartbeat_ms": 700}, "ten times smaller"),
        ({"client_address": "nowhere"}, "host:port"),
        ({"client_address": ":7001"}, "0.0.0.0:7001"),
        ({"initial_cluster": "n2=a:1"}, "add n1="),
        ({"initial_cluster": "n1,n2"}, "write initial_cluster as"),
        ({"initial_cluster": "n1=a:1,n1=b:1"}, "twice"),
        ({"initial_cluster": "n1=a:1,n2=a:1"}, "same peer address"),
        ({"initial_cluster": "n1=a:1", "peer_address": "b:1"}, "peer_listen"),
        ({"initial_cluster": "n1=127.0.0.1:7101", "join": "a:1"}, "give one of"),
        ({"tls_ca": "ca.pem"}, "troth certs"),
        ({"insecure": "perhaps"}, "true or false"),
        ({"log_level": "loud"}, "one of debug"),
        ({"log_format": "xml"}, "one of text"),
        ({"clients_max": 0}, "above 0"),
        ({"data_dir": 5}, "is a text"),
        ({"consensus": "raft", "thrifty": True}, "thrifty is for consensus paxos"),
        ({"consensus": "paxos", "phase2_size": 1}, "together"),
        ({"consensus": "paxos", "phase1_size": 2}, "together"),
    ],
)
def test_a_wrong_setting_says_what_to_write_instead(settings: dict[str, object], advice: str) -> None:
    with pytest.raises(UsageError, match=advice):
        load_config({**NEEDED, **settings})


def test_what_is_missing_is_named_in_all_three_forms() -> None:
    with pytest.raises(UsageError, match=r"--data-dir.*TROTH_DATA_DIR"):
        load_config({"name": "n1"})


def test_a_file_that_can_not_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can not be read"):
        load_config(NEEDED, file=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(UsageError, match="not TOML"):
        load_config(NEEDED, file=tmp_path / "bad.toml")


def test_plain_text_stays_on_this_machine() -> None:
    here = ServerConfig(**NEEDED, client_address="localhost:1", peer_address="unix:/tmp/p.sock")
    check_addresses(here)
    for setting in ("client_address", "peer_address", "client_listen", "peer_listen"):
        outside = {**NEEDED, setting: "0.0.0.0:7001"}
        with pytest.raises(UsageError, match=r"troth certs.*127\.0\.0\.1.*insecure"):
            check_addresses(ServerConfig(**outside))
        check_addresses(ServerConfig(**outside, insecure=True))
        check_addresses(ServerConfig(**outside, tls_ca="ca", tls_cert="cert", tls_key="key"))
    check_addresses(ServerConfig(**NEEDED, client_address="10.1.1.1:1", client_listen="127.0.0.1:1"))


def test_a_server_process_imports_nothing_heavy() -> None:
    heavy = ("click", "rich", "cryptography", "prometheus_client", "numpy", "urllib.request", "http")
    code = f"import sys, troth.server.serve; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_port_that_is_taken_is_told_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UsageError, match=f"peer_listen: {address} .* in use.*; stop what listens there"):
            asyncio.run(Port.bind(asyncio.Protocol, address, setting="peer_listen", tls=None))


async def test_of_two_that_start_together_one_is_told_that_the_port_is_taken() -> None:
    """Before either lets anybody in: a server has founded its cluster by then."""
    first = await Port.bind(asyncio.Protocol, "127.0.0.1:0", setting="client_listen", tls=None)
    try:
        address = f"127.0.0.1:{first.servers[0].sockets[0].getsockname()[1]}"
        with pytest.raises(UsageError, match=f"client_listen: {address} .* in use"):
            await Port.bind(asyncio.Protocol, address, setting="client_listen", tls=None)
    finally:
        first.close()


async def test_whoever_dials_before_a_port_is_open_is_turned_away() -> None:
    class Inside(asyncio.Protocol):
        @override
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            cast(asyncio.Transport, transport).write(b"in")
            transport.close()

    async def dialed() -> bytes:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", number)
            try:
                return await reader.read()
            except ConnectionError:
                return b""
            finally:
                writer.transport.abort()

    port = await Port.bind(Inside, "127.0.0.1:0", setting="client_listen", tls=None)
    try:
        number = port.servers[0].sockets[0].getsockname()[1]
        assert await dialed() == b""
        port.open()
        assert await dialed() == b"in"
    finally:
        port.close()
