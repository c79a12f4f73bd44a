"""A data directory made out of a saved snapshot."""

from pathlib import Path

from troth.kv.store import Store
from troth.replica.machine import StateMachine
from troth.server.config import ServerConfig
from troth.server.restore import restore
from troth.storage.backup import SealingSink


def test_nobody_else_can_read_what_was_restored(tmp_path: Path) -> None:
    machine = StateMachine(Store)
    with (tmp_path / "saved").open("wb") as file:
        sink = SealingSink(file)
        for piece in machine.dump():
            sink.write(piece)
        sink.seal()
    data = tmp_path / "above" / "data"
    restore(tmp_path / "saved", ServerConfig(name="n1", data_dir=str(data)))
    assert data.stat().st_mode & 0o777 == 0o700
