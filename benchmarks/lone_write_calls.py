"""How many calls a lone put costs: on its way from the client to the answer, and in all. Counted, not timed.

Three real servers' loops without their sockets and disks: connections are fed by hand, what they write is taken from
their transports, a write to the log is durable when this script says so. Calls of Python and built-in functions.

    python benchmarks/lone_write_calls.py
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, cast

import uvloop
from profile_write import KIND, NODES, VALUE, Bench

from troth.client.link import frame_of
from troth.core.interface import Persist
from troth.ids import ClusterId, NodeId
from troth.kv.requests import Put
from troth.replica.peers import PeerCodec
from troth.replica.protocol import Writes
from troth.runtime.clock import Clock
from troth.runtime.links import Link
from troth.runtime.node import Node
from troth.runtime.streams import FrameConnection
from troth.runtime.transport import AcceptedPeer, PeerTransport
from troth.server.clients import ClientConnection, ClientPort
from troth.wire.frames import FRAME_BYTES_MAX

PUTS = 200


class Wire:
    """A transport that keeps what is written. Its methods are built in, as those of a real one."""

    def __init__(self) -> None:
        self.written: deque[bytes] = deque()
        self.write = self.written.append
        self.get_write_buffer_size = int
        self.is_closing = bool

    def get_extra_info(self, name: str) -> None:
        del name

    def take(self) -> bytes:
        data = b"".join(self.written)
        self.written.clear()
        return data


class Disk:
    """Takes writes; durable when `Server.sync` says so."""

    def __init__(self) -> None:
        self.count = 0

    def start(self) -> None: ...

    def submit(self, persist: Persist) -> None:
        del persist
        self.count += 1


def connected(connection: FrameConnection, wire: Wire) -> None:
    connection.transport = cast(Any, wire)
    connection.admit(FRAME_BYTES_MAX)


class Server:
    """One node with all that it is given by hand."""

    def __init__(self, node_id: NodeId, replica: Any) -> None:
        self.disk = Disk()
        self.transport = PeerTransport(node_id=node_id, name=f"n{node_id}", sink=cast(Any, None))
        self.node = Node(
            node_id=node_id,
            name=f"n{node_id}",
            cluster_id=ClusterId(1),
            replica=replica,
            codec=PeerCodec(KIND.messages),
            transport=self.transport,
            clock=cast(Clock, type("Still", (Clock,), {"now": lambda _: replica._now})(1000)),
            on_event=lambda _: None,
        )
        self.transport.sink = self.node
        self.port = ClientPort(node=self.node, connections_max=9, queue_bytes_max=1 << 20)
        self.node.clients = self.port
        self.node.start(writer=cast(Any, self.disk), snapshots=cast(Any, None))
        self.to: dict[NodeId, Wire] = {}
        self.heard: dict[NodeId, AcceptedPeer] = {}
        for peer in NODES:
            if peer == node_id:
                continue
            link = Link(self.transport, peer)
            self.to[peer] = Wire()
            sending = AcceptedPeer(self.transport)
            connected(sending, self.to[peer])
            link.connection = cast(Any, sending)
            self.transport._links[peer] = link
            self.heard[peer] = AcceptedPeer(self.transport)
            self.heard[peer].sender = peer
            connected(self.heard[peer], Wire())

    def sync(self) -> None:
        count, self.disk.count = self.disk.count, 0
        if count:
            self.node.on_durable(count)


async def counted(action: Callable[[], None]) -> int:
    """Calls made by *action* and by what it has left to the loop."""
    count = 0

    def on_event(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    loop = asyncio.get_running_loop()
    loop.call_soon(sys.setprofile, on_event)
    loop.call_soon(action)
    for _ in range(4):
        await asyncio.sleep(0)
    sys.setprofile(None)
    return count


async def main() -> None:
    bench = Bench()
    servers = {node: Server(node, bench.replicas[node]) for node in NODES}
    leader, follower = servers[bench.leader], servers[bench.follower]
    other = servers[next(node for node in NODES if node not in (bench.leader, bench.follower))]
    client = ClientConnection(leader.port)
    wire = Wire()
    connected(client, wire)
    client.client = 1
    leader.port.connections[1] = client
    leader.node.client_opened(1)
    await asyncio.sleep(0.01)
    idle = await counted(lambda: None)
    totals: dict[str, int] = {}

    async def stage(name: str, action: Callable[[], None]) -> None:
        totals[name] = totals.get(name, 0) + await counted(action) - idle

    for turn in range(PUTS + 10):
        if turn == 10:
            totals.clear()
        data = frame_of(Writes(bench.session, turn + 1, turn + 1, (Put(b"key-%d" % turn, VALUE),)))
        await stage("1 leader: request to append", partial(client.data_received, data))
        append = leader.to[bench.follower].take()
        second = leader.to[other.node.node_id].take()
        await stage("2 follower: append to disk", partial(follower.heard[bench.leader].data_received, append))
        await stage("3 follower: disk to acknowledgement", follower.sync)
        ack = follower.to[bench.leader].take()
        await stage("5 beside: leader's own disk", leader.sync)
        await stage(
            "4 leader: acknowledgement to answer", partial(leader.heard[bench.follower].data_received, ack)
        )
        assert wire.take(), "no answer"
        other.heard[bench.leader].data_received(second)
        other.sync()
        await asyncio.sleep(0)
        late = other.to[bench.leader].take()
        await stage("6 beside: leader, second ack", partial(leader.heard[other.node.node_id].data_received, late))
        for each in (follower, other):
            notice = leader.to[each.node.node_id].take()
            if each is follower:
                await stage(
                    "7 beside: follower applies", partial(follower.heard[bench.leader].data_received, notice)
                )
            else:
                each.heard[bench.leader].data_received(notice)
                await asyncio.sleep(0)
    path = 0
    for name in sorted(totals):
        count = totals[name] / PUTS
        path += count * (name[0] in "1234")
        print(f"{count:8.1f}  {name}")
    print(f"{path:8.1f}  on the way, of {sum(totals.values()) / PUTS:.1f}")
    for server in servers.values():
        server.node.stop()


if __name__ == "__main__":
    uvloop.run(main())
