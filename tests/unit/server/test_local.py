"""`LocalCluster` without its processes."""

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from troth.errors import Unavailable, UsageError
from troth.server.local import LAYOUT, LocalCluster, free_port


class Client:
    """Takes note of whom it is to remove."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None: ...

    def remove_member(self, name: str) -> None:
        self.removed.append(name)


class Late:
    """A server that is taken in, and is not ready in time."""

    def __init__(self) -> None:
        self.closed = False

    def wait_ready(self) -> None:
        raise Unavailable("it is not ready")

    def close(self) -> None:
        self.closed = True


def test_a_server_that_joined_and_did_not_come_up_does_not_stay_a_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, client, late = LocalCluster(3, data_dir=tmp_path), Client(), Late()

    def spawn(name: str, *_: Any, **_kw: Any) -> Any:
        cluster.servers[name] = late  # type: ignore[assignment]
        return late

    monkeypatch.setattr(cluster, "_spawn", spawn)
    monkeypatch.setattr(cluster, "connect", lambda: client)
    with pytest.raises(Unavailable, match="not ready"):
        cluster.add_server()
    assert client.removed == ["n4"]
    assert late.closed
    assert cluster.names == ("n1", "n2", "n3")


def test_a_newcomer_whose_name_is_refused_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, client = LocalCluster(3, data_dir=tmp_path), Client()
    monkeypatch.setattr(cluster, "connect", lambda: client)
    with pytest.raises(UsageError, match="name 'a/b'"):
        cluster.add_server("a/b")
    assert client.removed == []
    assert cluster.names == ("n1", "n2", "n3")


def test_the_layout_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers sync all that they keep; an empty layout after a power cut would make it useless."""
    cluster, layout = LocalCluster(3, data_dir=tmp_path), tmp_path / LAYOUT
    synced: list[tuple[int, bool]] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_ino, layout.exists())))
    cluster._write_layout()
    assert synced == [(layout.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_no_port_is_given_twice() -> None:
    """Two servers of one cluster would be told to listen on the same one."""
    given = [free_port() for _ in range(1000)]
    assert len(set(given)) == 1000


def test_a_cluster_that_cannot_be_made_leaves_no_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(UsageError):
        LocalCluster(3, no_such_setting=1)
    assert list(tmp_path.iterdir()) == []
