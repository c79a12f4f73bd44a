"""The entry point of a server process, around a server that is a script."""

import asyncio
import os
import signal
from typing import Any

import pytest
from typing_extensions import override

from troth.server import serve
from troth.server.config import ServerConfig


class Starting:
    """A server that never comes to the end of its start; in the first turn of the loop a callback fails."""

    has_node = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    async def start(self) -> None:
        asyncio.get_running_loop().call_soon(self._fail)
        await asyncio.get_running_loop().create_future()

    def _fail(self) -> None:
        raise KeyError("a callback that nobody waits for")

    def reload(self) -> None:
        raise AssertionError


class HungUp(Starting):
    """A server that gets SIGHUP as soon as it starts; what it is told then, it tells as a failure."""

    @override
    def _fail(self) -> None:
        os.kill(os.getpid(), signal.SIGHUP)

    @override
    def reload(self) -> None:
        raise KeyError("asked to reload")


def test_a_hangup_reloads_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "Server", HungUp)

    async def run() -> None:
        async with asyncio.timeout(10):
            await serve._serve(ServerConfig(name="n1", data_dir="unused"), None, {}, None)

    with pytest.raises(KeyError, match="asked to reload"):
        asyncio.run(run())


def test_what_breaks_on_the_loop_while_a_server_starts_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would go on with a half-made state, and the log would have one more traceback."""
    monkeypatch.setattr(serve, "Server", Starting)

    async def run() -> None:
        async with asyncio.timeout(10):
            await serve._serve(ServerConfig(name="n1", data_dir="unused"), None, {}, None)

    with pytest.raises(KeyError, match="nobody waits for"):
        asyncio.run(run())
