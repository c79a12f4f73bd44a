"""Hosts and the streams between them, whose ends are in ends.py: TCP as processes see it, on virtual time.

Bytes of a connection arrive in order or not at all. What a bad network does to a stream is to be late (a lost packet
is sent again after a time-out), to stand still (a partition), or to break. A process that is killed has its sockets
closed by the kernel; a machine that loses power says nothing, and answers with a reset when it is back.

Frames one by one (`Network.throw`) are for servers whose links are to lose, double, reorder and garble single frames
(machine.py): consensus must stand that as well, whatever carries its messages.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from troth.rehearsal.ends import Address, End, Listener, reset
from troth.rehearsal.plan import Plan
from troth.simulate.choices import Choices
from troth.simulate.world import World

if TYPE_CHECKING:
    from troth.rehearsal.loop import ProcessLoop

RETRANSMIT_US = 200_000
CONNECT_AGAIN_US = 1_000_000
USER_TIMEOUT_US = 10_000_000


class Network:
    """All hosts. `cut` holds the directions between two hosts that carry nothing."""

    def __init__(self, world: World, plan: Plan, choices: Choices, rng: random.Random) -> None:
        self.cut: set[tuple[str, str]] = set()
        self.listeners: dict[Address, tuple[ProcessLoop, Callable[[], Any]]] = {}
        self.counts: Counter[str] = Counter()
        self.packets = 0
        """How many were sent."""
        self.clients: list[str] = []
        """Hosts that are no servers."""
        self.on_frame: Callable[[str, str, bytes, int], None] | None = None
        """Told (from, to, bytes, when they arrive) of all that is sent between hosts."""
        self._dark: set[str] = set()
        """Hosts without power."""
        self._world = world
        self._plan = plan
        self._choices = choices
        self._rng = rng
        self._ends: dict[ProcessLoop, dict[End, None]] = {}
        self._orphans: dict[str, list[End]] = {}
        self._stalled: dict[End, None] = {}
        self._numbers = 0
        self._calm = True
        """Faults of single packets begin with `begin`."""

    # ---- connections -----------------------------------------------------------------------------------

    def bind(self, loop: "ProcessLoop", factory: Callable[[], Any], address: Address) -> Listener:
        """*loop*'s process has *address*, to accept connections there. Raises OSError when it is taken."""
        if address in self.listeners:
            raise OSError(f"address {address} in use (simulated)")
        return Listener(self, loop, factory, address)

    async def connect(self, loop: "ProcessLoop", factory: Callable[[], Any], address: Address) -> tuple[End, Any]:
        """Dial *address*; waits for ever while nobody can be reached, as TCP nearly does."""
        future: asyncio.Future[tuple[End, Any]] = loop.create_future()
        self._dial(loop, factory, address, future)
        return await future

    def _dial(
        self, loop: "ProcessLoop", factory: Callable[[], Any], address: Address, future: "asyncio.Future[Any]"
    ) -> None:
        if future.done() or not loop.alive:
            return
        if self._open(loop.host, address[0]):
            self._world.after(self._delay_us(), self._arrives, loop, factory, address, future)
        else:
            self._world.after(CONNECT_AGAIN_US, self._dial, loop, factory, address, future)

    def _arrives(
        self, loop: "ProcessLoop", factory: Callable[[], Any], address: Address, future: "asyncio.Future[Any]"
    ) -> None:
        if not self._open(loop.host, address[0]):
            self._world.after(CONNECT_AGAIN_US, self._dial, loop, factory, address, future)
            return
        there = self.listeners.get(address)
        if there is None:
            self._world.after(self._delay_us(), loop.enter, _refuse, future, address)
            return
        server, accept = there
        near, far = self._end(loop), self._end(server)
        near.peer, far.peer = far, near
        server.enter(self._accepted, far, accept)
        near.last_arrival_us = far.last_arrival_us = self._world.now_us + self._delay_us()
        self._world.after(
            near.last_arrival_us - self._world.now_us, loop.enter, self._connected, near, factory, future
        )

    def _accepted(self, end: End, accept: Callable[[], Any]) -> None:
        end.protocol = accept()
        end.protocol.connection_made(end)

    def _connected(self, end: End, factory: Callable[[], Any], future: "asyncio.Future[Any]") -> None:
        if end.is_closing():
            if not future.done():
                future.set_exception(reset())
            return
        end.protocol = factory()
        if future.done():
            # Given up meanwhile.
            end._closing = end._gone = True
            self.carry(end, None)
            self.forget(end)
            return
        end.protocol.connection_made(end)
        future.set_result((end, end.protocol))

    def _end(self, loop: "ProcessLoop") -> End:
        self._numbers += 1
        end = End(self, loop, self._numbers)
        self._ends.setdefault(loop, {})[end] = None
        return end

    def forget(self, end: End) -> None:
        self._ends.get(end.loop, {}).pop(end, None)
        self._stalled.pop(end, None)

    # ---- bytes -----------------------------------------------------------------------------------------

    def carry(self, end: End, item: bytes | None) -> None:
        """*item* leaves *end*: bytes, an end of file (empty), or a reset (None)."""
        if not end.loop.alive and item is not None:
            return
        world = self._world
        delay_us = self._delay_us()
        loss = self._plan.loss
        if loss and not self._calm and self._rng.random() * 1000 < loss and self._choices.take("loss"):
            self.counts["loss"] += 1
            delay_us += RETRANSMIT_US
        arrival_us = world.now_us + delay_us
        if arrival_us < end.last_arrival_us:
            arrival_us = end.last_arrival_us
        end.last_arrival_us = arrival_us
        self.packets += 1
        if self.on_frame is not None and item:
            self.on_frame(end.loop.host, end.peer.loop.host, item, arrival_us)
        end.pipe.append(item)
        world.after(arrival_us - world.now_us, self._arrive, end)

    def _arrive(self, end: End) -> None:
        peer = end.peer
        if (
            end.stalled
            or (self.cut and (end.loop.host, peer.loop.host) in self.cut)
            or (self._dark and peer.loop.host in self._dark)
        ):
            self.counts["stalled"] += 1
            end.stalled += 1
            if end not in self._stalled:
                self._stalled[end] = None
                self._world.after(USER_TIMEOUT_US, end.time_out, end.last_arrival_us)
            return
        item = end.pipe.popleft()
        if not peer.loop.alive or peer._gone:
            if item is not None:
                # Nobody holds that socket any more: the kernel there says so.
                self._world.after(self._delay_us(), end.loop.enter, end.take, None)
            return
        if (
            self._plan.garble
            and item
            and not self._calm
            and self._rng.random() * 1_000_000 < self._plan.garble * 100
            and self._choices.take("garble")
        ):
            self.counts["garble"] += 1
            end.unread_bytes -= len(item)
            # Garbage that is seen at once: TCP's checksum lets hardly any through, and a length that happened to be
            # possible would only swallow what follows.
            item = b"\xff" * 4 + self._rng.randbytes(len(item))
            end.unread_bytes += len(item)
        peer.loop.enter(peer.take, item)

    def _delay_us(self) -> int:
        draw = self._rng.random
        plan = self._plan
        if self._calm:
            return 50 + int(draw() * 1000)
        if plan.delay_long and draw() * 1000 < plan.delay_long and self._choices.take("late"):
            self.counts["late"] += 1
            return int(draw() * 4 * plan.election_timeout_us)
        return 50 + int(draw() * draw() * 4 * plan.delay_us)

    # ---- frames one by one -----------------------------------------------------------------------------

    def throw(self, source: str, target: str, data: bytes, receive: Callable[[bytes], None]) -> bool:
        """Send one frame by itself: lost, late, doubled, overtaken. False: the sender may notice that it is lost."""
        plan, draw, counts, choices = self._plan, self._rng.random, self.counts, self._choices
        self.packets += 1
        if (source, target) in self.cut:
            counts["cut"] += 1
            return not (plan.unreachable_told and draw() * 1000 < plan.unreachable_told)
        if not self._calm:
            if plan.loss and draw() * 1000 < plan.loss and choices.take("loss"):
                counts["loss"] += 1
                return not (plan.unreachable_told and draw() * 1000 < plan.unreachable_told)
            if plan.duplicate and draw() * 1000 < plan.duplicate and choices.take("duplicate"):
                counts["duplicate"] += 1
                self._world.after(self._delay_us(), self._land, source, target, data, receive)
            if plan.garble and draw() * 1000 < plan.garble and choices.take("garble"):
                counts["garble"] += 1
                broken = bytearray(data)
                for _ in range(self._rng.randint(1, 3)):
                    broken[self._rng.randrange(len(broken))] ^= 1 << self._rng.randrange(8)
                data = bytes(broken)
        delay_us = self._delay_us()
        if self.on_frame is not None:
            self.on_frame(source, target, data, self._world.now_us + delay_us)
        self._world.after(delay_us, self._land, source, target, data, receive)
        return True

    def _land(self, source: str, target: str, data: bytes, receive: Callable[[bytes], None]) -> None:
        if (self.cut and (source, target) in self.cut) or target in self._dark:
            self.counts["cut"] += 1
            return
        receive(data)

    # ---- what happens to hosts and links ---------------------------------------------------------------

    def process_ended(self, loop: "ProcessLoop", *, power: bool) -> None:
        """The process in *loop* is gone. *power*: with its machine, which can not even close its sockets."""
        for address in [address for address, (owner, _) in self.listeners.items() if owner is loop]:
            del self.listeners[address]
        ends = self._ends.pop(loop, {})
        for end in ends:
            self._stalled.pop(end, None)
            end._gone = end._closing = True
        if power:
            self._dark.add(loop.host)
            self._orphans.setdefault(loop.host, []).extend(ends)
        else:
            for end in ends:
                self.carry(end, None)

    def host_is_back(self, host: str) -> None:
        """Power is on again: the kernel resets connections that it knows nothing of."""
        self._dark.discard(host)
        for end in self._orphans.pop(host, []):
            self.carry(end, None)
        self._flush()

    def partition(self, one: Iterable[str], other: Iterable[str], *, one_way: bool) -> None:
        """Cut *one* off from *other*; one way: what *one* says is not heard by *other*."""
        others = sorted(other)
        for a in sorted(one):
            for b in others:
                self.cut.add((a, b))
                if not one_way:
                    self.cut.add((b, a))

    def heal(self) -> None:
        """All links carry again."""
        self.cut.clear()
        self._flush()

    def begin(self) -> None:
        """From now on packets suffer as the plan says."""
        self._calm = False

    def calm(self) -> None:
        """No more faults."""
        self._calm = True
        self.heal()

    def break_connections(self, one: str, other: str) -> int:
        """Every connection between two hosts is reset, as a firewall does that was started anew. Returns how many."""
        broken = 0
        for loop, ends in list(self._ends.items()):
            if loop.host == one:
                for end in list(ends):
                    if end.peer.loop.host == other:
                        broken += 1
                        loop.enter(end.take, None)
                        end.peer.loop.enter(end.peer.take, None)
        return broken

    def _flush(self) -> None:
        for end in list(self._stalled):
            if (end.loop.host, end.peer.loop.host) in self.cut or end.peer.loop.host in self._dark:
                continue
            del self._stalled[end]
            count, end.stalled = end.stalled, 0
            end.last_arrival_us = max(end.last_arrival_us, self._world.now_us + self._delay_us())
            for _ in range(count):
                self._world.after(end.last_arrival_us - self._world.now_us, self._arrive, end)

    def _open(self, one: str, other: str) -> bool:
        return (one, other) not in self.cut and (other, one) not in self.cut and other not in self._dark


def _refuse(future: "asyncio.Future[Any]", address: Address) -> None:
    if not future.done():
        future.set_exception(ConnectionRefusedError(f"nobody listens at {address[0]}:{address[1]} (simulated)"))
