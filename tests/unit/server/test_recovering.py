"""What a server's settings come to in ticks, however long a tick is."""

from pathlib import Path

import pytest

from troth.server.config import ServerConfig
from troth.server.recovering import engine_config


@pytest.mark.parametrize("tick_ms", [1, 10, 50])
def test_durations_last_as_long_whatever_a_tick_is(tick_ms: int, tmp_path: Path) -> None:
    config = ServerConfig(name="n1", data_dir=str(tmp_path), tick_ms=tick_ms)
    engine = engine_config(config)
    assert engine.heartbeat_ticks * tick_ms == config.heartbeat_ms
    assert engine.election_timeout_ticks * tick_ms == config.election_timeout_ms
    assert engine.disk_timeout_ticks * tick_ms == 3000
