"""`LocalAcceptors` without its processes."""

import asyncio
import threading
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from fake_server import asynchronous

from troth import aio
from troth.client.registers import local
from troth.client.registers.local import LAYOUT, LocalAcceptors
from troth.client.registers.sync import PaxosClient
from troth.errors import UsageError


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> list[MagicMock]:
    """What was started: each runs, and is up at once."""
    made: list[MagicMock] = []

    def start(*_: object, **__: object) -> MagicMock:
        process = MagicMock()
        process.stdin = None
        process.poll.return_value = None
        made.append(process)
        return process

    monkeypatch.setattr(local.subprocess, "Popen", start)
    monkeypatch.setattr(LocalAcceptors, "_wait_ready", lambda acceptors, name: None)
    return made


def test_an_acceptor_that_runs_is_not_started_again(tmp_path: Path, started: list[MagicMock]) -> None:
    """The second would take the first one's socket, and the first be nobody's."""
    acceptors = LocalAcceptors(tmp_path, 3)
    with pytest.raises(UsageError, match="a1 runs"):
        acceptors.start("a1")
    assert len(started) == 3
    started[0].poll.return_value = -9
    acceptors.start("a1")
    assert acceptors.processes["a1"] is started[3]
    for call in (acceptors.start, acceptors.kill, acceptors.pause, acceptors.resume):
        with pytest.raises(UsageError, match="no acceptor is called 'a9'"):
            call("a9")
    acceptors.close()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"acceptors": null}', "nonsense"])
def test_a_layout_that_was_not_written_by_us_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / LAYOUT).write_text(text)
    with pytest.raises(UsageError, match=r"not what PaxosClient\.local wrote"):
        LocalAcceptors(tmp_path, 3)


def test_the_layout_is_there_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise OSError("no room")

    with monkeypatch.context() as full:
        full.setattr("troth.client.backup.os.fsync", breaks)
        with pytest.raises(UsageError, match="no room"):
            LocalAcceptors(tmp_path, 3)
    assert not (tmp_path / LAYOUT).exists()
    LocalAcceptors(tmp_path, 3).close()
    with pytest.raises(UsageError, match="3 acceptors, not 5"):
        LocalAcceptors(tmp_path, 5)


def test_what_can_not_be_a_directory_of_acceptors_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        with pytest.raises(UsageError, match="give another one"):
            LocalAcceptors(wrong, 3)


@pytest.mark.parametrize("count", [0, -1, "3", None, 2.5])
def test_a_number_of_acceptors_is_one(tmp_path: Path, count: object) -> None:
    with pytest.raises(UsageError, match="at least one acceptor"):
        LocalAcceptors(tmp_path, count)  # type: ignore[arg-type]


@asynchronous
async def test_whoever_is_cancelled_while_acceptors_start_leaves_none_behind(
    tmp_path: Path, started: list[MagicMock], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that starts them goes on; what it has made is nobody's by then, and ends."""
    starting, may_start, ended = threading.Event(), threading.Event(), threading.Event()

    def wait_ready(acceptors: LocalAcceptors, name: str) -> None:
        started[-1].terminate.side_effect = ended.set
        starting.set()
        may_start.wait(30)

    monkeypatch.setattr(LocalAcceptors, "_wait_ready", wait_ready)
    opening = asyncio.create_task(aio.PaxosClient.local(tmp_path))
    assert await asyncio.to_thread(starting.wait, 30)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not ended.is_set()
    may_start.set()
    assert await asyncio.to_thread(ended.wait, 30)
    assert len(started) == 3 and all(process.terminate.called for process in started)


IMPOSSIBLE = [
    ({"acceptors": 65}, "up to 64 acceptors, not 65"),
    ({"acceptors": 1000}, "up to 64"),
    ({"prepare": 1, "accept": 1}, "meet"),
    ({"prepare": 4}, "between 1 and 3"),
    ({"accept": True}, "accept="),
]


@pytest.mark.parametrize(("wanted", "says"), IMPOSSIBLE)
def test_what_can_be_no_set_is_refused_before_anything_is_started_or_written(
    tmp_path: Path, started: list[MagicMock], wanted: dict[str, int], says: str
) -> None:
    """The directory would hold that number of acceptors for ever."""
    with pytest.raises(UsageError, match=says):
        PaxosClient.local(tmp_path / "new", **wanted)
    assert not started and not (tmp_path / "new").exists()


@asynchronous
async def test_what_can_be_no_set_is_refused_by_asyncio_before_anything_is_started(
    tmp_path: Path, started: list[MagicMock]
) -> None:
    for wanted, says in IMPOSSIBLE:
        with pytest.raises(UsageError, match=says):
            await aio.PaxosClient.local(tmp_path / "new", **wanted)
    assert not started and not (tmp_path / "new").exists()
