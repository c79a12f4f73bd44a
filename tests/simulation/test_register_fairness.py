"""Clients that write one key without a pause, near the acceptors and far from them: everybody has a turn."""

import heapq
import random
from collections.abc import Callable

import pytest

from troth.client.registers.patience import pause_s
from troth.core.register import changes
from troth.core.register.acceptor import Acceptor
from troth.core.register.messages import Configuration, Configure, ReplyMessage, Seat, founding, group_of
from troth.core.register.proposer import Proposer
from troth.core.register.round import Round
from troth.core.register.task import Send
from troth.ids import NodeId

SYNC_S = 0.0003
SECONDS = 3.0


class Arena:
    """Three acceptors, and clients that begin a request as soon as the last has ended; time is a number."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.acceptors = {NodeId(number): Acceptor(NodeId(number)) for number in (1, 2, 3)}
        self.config: Configuration = founding(group_of(tuple(Seat(node, f"a{node}") for node in self.acceptors)))
        for acceptor in self.acceptors.values():
            acceptor.on_request(Configure(self.config))

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, do))

    def run(self) -> None:
        while self._events and self.now < SECONDS:
            self.now, _, do = heapq.heappop(self._events)
            do()


class Client:
    """Asks the same again and again, over a network that takes *far_s* each way, about."""

    def __init__(self, arena: Arena, number: int, far_s: float, begin: Callable[[Proposer], Round]) -> None:
        self._arena = arena
        self._far_s = far_s
        self._begin = begin
        self._proposer = Proposer(number, arena.config)
        self._task: Round | None = None
        self._resting = False
        self._began = 0.0
        self.waits_s: list[float] = []
        self._next()

    def _next(self) -> None:
        self._task, self._began, self._resting = self._begin(self._proposer), self._arena.now, False
        self._go_on()

    def _go_on(self) -> None:
        task = self._task
        assert task is not None
        for send in task.take():
            self._send(task, send)
        if task.outcome is not None:
            assert task.outcome.error is None
            self.waits_s.append(self._arena.now - self._began)
            self._task = None
            self._arena.after(0.00001, self._next)
        elif task.pause and not self._resting:
            self._resting = True

            def rested() -> None:
                if self._task is task:
                    self._resting = False
                    task.resume()
                    self._go_on()

            self._arena.after(pause_s(task.pause, self._arena.chance.random()), rested)

    def _way_s(self, mean_s: float) -> float:
        return mean_s * (0.5 + self._arena.chance.random())

    def _send(self, task: Round, send: Send) -> None:
        def arrive() -> None:
            reply, _ = self._arena.acceptors[send.to].on_request(send.request)
            self._arena.after(self._way_s(SYNC_S) + self._way_s(self._far_s), lambda: back(reply))

        def back(reply: ReplyMessage) -> None:
            if self._task is task and task.is_current(send):
                task.on_reply(send, reply)
                self._go_on()

        self._arena.after(self._way_s(self._far_s), arrive)


def put(proposer: Proposer) -> Round:
    return proposer.change(b"hot", changes.put(b"v"))


def read(proposer: Proposer) -> Round:
    return proposer.read(b"hot")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("near", "far", "share"),
    [
        ([(0.0002, put)], (0.0002, put), 0.4),
        ([(0.00005, put)], (0.001, put), 0.02),
        ([(0.00005, put)], (0.005, read), 0.001),
        ([(0.0002, put)] * 4, (0.0002, put), 0.05),
    ],
    ids=["two alike", "one is far", "a reader is far", "five alike"],
)
def test_nobody_starves(
    near: list[tuple[float, Callable[[Proposer], Round]]],
    far: tuple[float, Callable[[Proposer], Round]],
    share: float,
    seed: int,
) -> None:
    """In three seconds the last one gets at least *share* of all turns; before courtesy one that was far got none."""
    arena = Arena(seed)
    clients = [Client(arena, 1000 + number, *each) for number, each in enumerate([*near, far])]
    arena.run()
    turns = [len(client.waits_s) for client in clients]
    assert turns[-1] > share * sum(turns), turns
    assert max(clients[-1].waits_s) < 2.5
