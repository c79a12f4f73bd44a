"""A server's certificates: what is refused at the start, told of failed handshakes, and read anew."""

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from typing_extensions import override

from troth.cli.certs import parse_server, write_set
from troth.errors import UsageError
from troth.server import ending, metrics
from troth.server.listener import Port
from troth.server.tls import OTHER, REASONS_MAX, Certificates, reason_of


@dataclass
class Files:
    """What a configuration says of TLS."""

    directory: Path
    name: str = "n1"
    has_tls: bool = True

    @property
    def tls_ca(self) -> str:
        return str(self.directory / "ca.pem")

    @property
    def tls_cert(self) -> str:
        return str(self.directory / f"{self.name}.pem")

    @property
    def tls_key(self) -> str:
        return str(self.directory / f"{self.name}.key")


def made(directory: Path, days: int = 100) -> Files:
    write_set(directory, [parse_server("n1=localhost")], days=days)
    return Files(directory)


def exchange(here: Path, there: Path, *names: str) -> None:
    for name in names:
        shutil.copy(there / name, here / name)


class Inside(asyncio.Protocol):
    """Says so to everybody who gets in."""

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        told = cast(asyncio.Transport, transport)
        told.write(b"in")
        told.close()


@contextlib.asynccontextmanager
async def listening(certificates: Certificates) -> AsyncIterator[int]:
    port = await Port.bind(Inside, "127.0.0.1:0", setting="test", tls=certificates.entrance("client"))
    port.open()
    try:
        yield port.servers[0].sockets[0].getsockname()[1]
    finally:
        port.close()


def client(files: Files, name: str = "client") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=files.tls_ca)
    if name:
        context.load_cert_chain(files.directory / f"{name}.pem", files.directory / f"{name}.key")
    return context


async def dialed(port: int, tls: ssl.SSLContext | None) -> bytes:
    """What whoever dials is told; nothing, if the door stays shut. Returns when the server has hung up."""
    name = None if tls is None else "localhost"
    writer = None
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
            if tls is None:
                writer.write(b"GET / HTTP/1.1\r\n\r\n")
            return await reader.read(2)
    except (ConnectionError, ssl.SSLError):
        return b""
    finally:
        if writer is not None:
            writer.transport.abort()


async def test_a_handshake_that_fails_is_counted_and_told_once_for_each_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files, foreign = made(tmp_path / "ours"), made(tmp_path / "foreign")
    exchange(foreign.directory, files.directory, "ca.pem")  # it trusts us, we do not trust it
    certificates = Certificates(files)
    async with listening(certificates) as port:
        assert await dialed(port, client(files)) == b"in"
        for _ in range(2):
            assert await dialed(port, client(foreign)) == b""
            assert await dialed(port, client(files, "")) == b""
            assert await dialed(port, None) == b""
    assert sorted(certificates.failures.values()) == [2, 2, 2]
    told = [record.message for record in caplog.records if record.name == "troth.tls"]
    assert len(told) == 3 and all("handshake on the client port failed" in each for each in told)
    for reason in ("not accepted: unable to get local issuer", "shows no certificate", "does not speak TLS"):
        assert sum(reason in each for each in told) == 1, told


async def test_what_has_ended_lets_nobody_in(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = made(tmp_path / "good")
    old = tmp_path / "old"
    exchange_all(files.directory, old, "ca.pem", "ca.key")
    write_set(old, [parse_server("n1=localhost")], days=0)
    certificates = Certificates(files)
    async with listening(certificates) as port:
        assert await dialed(port, client(Files(old))) == b""
    assert list(certificates.failures) == [("client", "its certificate is not accepted: certificate has expired")]


def exchange_all(there: Path, here: Path, *names: str) -> None:
    here.mkdir()
    exchange(here, there, *names)


@pytest.mark.parametrize(
    ("days", "name", "why"),
    [
        (0, "n1", "certificate has expired"),
        (9, "client", "certificate purpose"),
    ],
)
def test_a_certificate_that_nobody_accepts_is_refused(tmp_path: Path, days: int, name: str, why: str) -> None:
    """The server would start, and nobody would ever reach it."""
    files = Files(made(tmp_path, days).directory, name)
    with pytest.raises(UsageError, match=f"tls_cert.*{why}.*clock is right"):
        Certificates(files)


def test_a_certificate_of_another_ca_is_refused(tmp_path: Path) -> None:
    files, other = made(tmp_path / "a"), made(tmp_path / "b")
    exchange(files.directory, other.directory, "ca.pem")
    with pytest.raises(UsageError, match="unable to get local issuer certificate"):
        Certificates(files)
    exchange(files.directory, other.directory, "n1.pem")
    with pytest.raises(UsageError, match=r"TLS: .*mismatch.*troth certs"):
        Certificates(files)


@pytest.mark.parametrize(("days", "warned"), [(30, True), (32, False)])
def test_a_certificate_is_warned_of_before_it_ends(
    tmp_path: Path, days: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    certificates = Certificates(made(tmp_path, days))
    assert certificates.days_left == days - 1
    assert (f"ends in {days - 1} days" in caplog.text) is warned


async def test_certificates_are_read_anew_for_those_who_come(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files, new = made(tmp_path / "here"), made(tmp_path / "new")
    before = client(files)
    certificates = Certificates(files)
    dialing = certificates.dialing
    async with listening(certificates) as port:
        exchange(files.directory, new.directory, "n1.pem")
        certificates.reload()
        assert "the certificates stay as they were: TLS: " in caplog.text
        assert certificates.dialing is dialing and await dialed(port, before) == b"in"
        exchange(files.directory, new.directory, "n1.key", "ca.pem")
        certificates.reload()
        assert "the certificates were read anew; ours is good for 99 days" in caplog.text
        assert certificates.dialing is not dialing
        assert await dialed(port, client(new)) == b"in"
        assert await dialed(port, before) == b"", "nor is the CA trusted any more that is not there"


def test_reasons_have_a_bound(tmp_path: Path) -> None:
    certificates = Certificates(made(tmp_path))
    for number in range(REASONS_MAX + 5):
        error = ssl.SSLError()
        error.reason = f"REASON_{number}"
        certificates._on_failed("client", error)
    assert len(certificates.failures) == REASONS_MAX + 1 and certificates.failures["client", OTHER] == 5


def test_a_reason_without_words_is_its_kind() -> None:
    assert reason_of(ssl.SSLEOFError()) == "ssleoferror"


def test_metrics_tell_when_the_certificate_ends_and_what_failed(tmp_path: Path) -> None:
    certificates = Certificates(made(tmp_path))
    certificates.failures = Counter({("peer", "it shows no certificate"): 3})

    class Shown(CollectorRegistry):
        def collect(self):  # type: ignore[no-untyped-def]
            return metrics._of_tls(certificates)

    text = generate_latest(Shown()).decode()
    assert 'troth_tls_handshakes_failed_total{port="peer",reason="it shows no certificate"} 3.0' in text
    (ends,) = re.findall("^troth_certificate_ends_seconds (.*)$", text, re.MULTILINE)
    assert float(ends) == certificates.ends_at


@pytest.mark.parametrize(
    ("terminal", "closed", "outlives", "expected"),
    [
        (False, False, False, "reload"),
        (True, False, False, "reload"),
        (True, True, False, "stop"),
        (True, True, True, "reload"),
    ],
)
async def test_a_hangup_reloads_unless_the_terminal_is_gone(
    terminal: bool, closed: bool, outlives: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a handler the process would be gone, and its log would end in the middle of everyday life."""
    is_terminal = {"now": terminal}
    monkeypatch.setattr(os, "isatty", lambda descriptor: is_terminal["now"])
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if outlives else signal.SIG_DFL)
    loop = asyncio.get_running_loop()
    done: asyncio.Future[str] = loop.create_future()
    try:
        ending.heed_hangup(loop, stop=lambda: done.set_result("stop"), reload=lambda: done.set_result("reload"))
        is_terminal["now"] = terminal and not closed
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(10):
            assert await done == expected
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
        signal.signal(signal.SIGHUP, before)
