"""Streams of the simulated network do what those of TCP do when one side has given up."""

import asyncio
import random

from typing_extensions import override

from troth.rehearsal.loop import Clock, ProcessLoop
from troth.rehearsal.network import USER_TIMEOUT_US, Network
from troth.rehearsal.plan import draw
from troth.simulate.choices import Choices
from troth.simulate.world import World


class Side(asyncio.Protocol):
    """What one side of a connection has heard."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.heard = b""
        self.ended: list[Exception | None] = []

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    @override
    def data_received(self, data: bytes) -> None:
        self.heard += data

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.append(exc)


def test_bytes_for_a_connection_that_the_other_side_has_given_up_are_answered_by_a_reset() -> None:
    """Else it would seem to be one for ever, and all that is said on it would be lost."""
    world, errors = World(), list[BaseException]()
    network = Network(world, draw(1, chaos_seconds=1), Choices(), random.Random(1))
    here, there = (ProcessLoop(world, network, name, Clock(world), errors.append) for name in ("here", "there"))
    near, far = Side(), Side()
    network.bind(there, lambda: far, ("there", 1)).open()
    here.create_task(network.connect(here, lambda: near, ("there", 1)))
    world.run_until(1_000_000)
    near.transport.write(b"one")
    world.run_until(2_000_000)
    assert far.heard == b"one"
    network.partition({"here"}, {"there"}, one_way=False)
    far.transport.write(b"never acknowledged")
    world.run_until(world.now_us + 2 * USER_TIMEOUT_US)
    assert isinstance(far.ended[0], TimeoutError) and not near.ended
    network.heal()
    near.transport.write(b"two")
    world.run_until(world.now_us + 1_000_000)
    assert isinstance(near.ended[0], ConnectionResetError)
    assert (near.heard, far.heard, errors) == (b"", b"one", [])
