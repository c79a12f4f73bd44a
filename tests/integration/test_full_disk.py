"""A disk that is full: the server stops, says so, and starts again without a loss once there is room."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_cluster import until

import troth
from troth.errors import TrothError
from troth.server.process import RaftServer

pytestmark = pytest.mark.integration


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of its own (needs root)."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def can_mount() -> bool:
    # (In a chroot, whose root is no mount point, the propagation of mounts cannot be changed.)
    probe = ["unshare", "-m", "--propagation", "unchanged", "true"]
    return os.geteuid() == 0 and subprocess.run(probe, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="a small file system can be mounted by root only")
def test_a_full_disk_stops_the_server_and_loses_nothing(tmp_path: Path) -> None:
    settings = {"name": "n1", "client_address": f"unix:{tmp_path}/c", "peer_address": f"unix:{tmp_path}/p"}
    with small_disk(tmp_path / "disk", "96m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(80 << 20))
        log = tmp_path / "n1.log"
        server = RaftServer(data_dir=str(disk / "n1"), log_file=str(log), **settings)
        server.start()
        acknowledged: dict[str, bytes] = {}
        try:
            server.wait_ready()
            with troth.connect(f"troth://unix:{tmp_path}/c", timeout=5.0) as client:
                until(lambda: server.status().role == "leader")
                with contextlib.suppress(TrothError):
                    for number in range(10_000):
                        client.put(f"k{number}", value := b"%d" % number * 4000)
                        acknowledged[f"k{number}"] = value
            assert server.join(60) == 3
        finally:
            server.close()
        assert acknowledged
        text = log.read_text()
        assert "this server stops" in text and "space" in text.lower(), text
        ballast.unlink()
        with RaftServer(data_dir=str(disk / "n1"), **settings) as again:
            until(lambda: again.status().role == "leader")
            with troth.connect(f"troth://unix:{tmp_path}/c", timeout=5.0) as client:
                for key, value in acknowledged.items():
                    assert client.get(key).value == value
                client.put("room", "again")
