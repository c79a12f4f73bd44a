"""Where the time of a write and of a read goes, without sockets and disks: the pure path, layer by layer.

Three replicas in one process, driven by hand; messages are encoded and decoded as on the wire. Prints processor
time per command on the leader, on a follower and in the client's encoding, by batch size, then the leader's
share by layer (cProfile, so only the shares mean something).

    python benchmarks/profile_write.py [--seconds 1]
"""

import argparse
import cProfile
import gc
import pstats
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

import troth
from troth.core.engines import EngineConfig, engine_kind
from troth.core.interface import ORIGIN, Member, Membership, Message, SnapshotMeta
from troth.ids import NodeId, Tick
from troth.kv.requests import Put, Range
from troth.kv.store import Store
from troth.models import linearizable
from troth.replica.machine import StateMachine
from troth.replica.peers import PeerCodec
from troth.replica.protocol import ClientMessage, OpenSession, Reads, SessionOpened, Writes
from troth.replica.replica import Replica
from troth.replica.state import ReplicaConfig, ReplicaStart

KIND = engine_kind("raft")
CODEC = PeerCodec(KIND.messages)
NODES = [NodeId(1), NodeId(2), NodeId(3)]
VALUE = b"v" * 256
encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(ClientMessage).decode


class Bench:
    """Three replicas and one client of the leader; `spent` is processor seconds by node (0: the client)."""

    def __init__(self) -> None:
        founding = SnapshotMeta(
            ORIGIN, Membership(voters=tuple(NODES), members={node: Member(f"n{node}") for node in NODES})
        )
        self.now = Tick(0)
        self.replicas = {node: _replica(node, founding) for node in NODES}
        self.spent = dict.fromkeys([NodeId(0), *NODES], 0.0)
        self.session = 0
        while not any(replica.engine.leader()[1] == node for node, replica in self.replicas.items()):
            self.now = Tick(self.now + 1)
            for replica in self.replicas.values():
                replica.tick(self.now)
            self.settle()
        self.leader = next(iter(self.replicas.values())).engine.leader()[1]
        self.follower = next(node for node in NODES if node != self.leader)
        self.replicas[self.leader].client_connected(1)
        self._next_seq = 1
        self.say(OpenSession(1, 1))
        self.settle()

    def settle(self) -> None:
        """Until nothing is left to do."""
        busy = True
        while busy:
            busy = False
            for node, replica in self.replicas.items():
                begin = time.process_time()
                effects = replica.take_effects()
                frames: dict[NodeId, list[Message]] = {}
                for to, message in effects.send + effects.after_persist:
                    frames.setdefault(to, []).append(message)
                bodies = {to: CODEC.encode(messages) for to, messages in frames.items() if to != node}
                answers = [encode(reply) for _, reply in effects.replies]
                self.spent[node] += time.process_time() - begin
                busy |= bool(frames or answers or effects.again)
                for _, reply in effects.replies:
                    if isinstance(reply, SessionOpened):
                        self.session = reply.session
                for to, messages in frames.items():
                    begin = time.process_time()
                    received = messages if to == node else CODEC.decode(bodies[to])
                    self.replicas[to].on_peer(node, received, self.now)
                    self.spent[to] += time.process_time() - begin

    def say(self, message: ClientMessage) -> None:
        begin = time.process_time()
        body = encode(message)
        sent = time.process_time()
        self.replicas[self.leader].on_client(1, decode(body), body, self.now)
        self.spent[NodeId(0)] += sent - begin
        self.spent[self.leader] += time.process_time() - sent

    def put(self, batch: int, turn: int) -> None:
        first = self._next_seq
        self._next_seq += batch
        commands = tuple(Put(b"key-%d-%d" % (number, turn % 1000), VALUE) for number in range(batch))
        self.say(Writes(self.session, first, first, commands))
        self.settle()

    def get(self, batch: int, turn: int) -> None:
        requests = tuple(Range(b"key-%d-%d" % (number, turn % 1000)) for number in range(batch))
        self.say(Reads(turn, linearizable, requests))
        self.settle()


def _replica(node: NodeId, founding: SnapshotMeta) -> Replica:
    rng = random.Random(node)
    engine = KIND.start(node_id=node, config=EngineConfig(), rng=rng, snapshot=founding)
    return Replica(
        ReplicaStart(
            engine=engine,
            machine=StateMachine(Store),
            rng=rng,
            name=f"n{node}",
            cluster_id=1,
            snapshot=founding,
            config=ReplicaConfig(snapshot_log_bytes=1 << 40, snapshot_log_entries=1 << 40),
        )
    )


def measure(bench: Bench, action: Callable[[int, int], None], batch: int, seconds: float) -> str:
    """One row: microseconds of processor time per command."""
    for node in bench.spent:
        bench.spent[node] = 0.0
    end = time.perf_counter() + seconds
    turns = 0
    while time.perf_counter() < end:
        action(batch, turns)
        turns += 1
    per_command = {node: spent / (turns * batch) * 1e6 for node, spent in bench.spent.items()}
    return (
        f"{per_command[bench.leader]:8.2f} {per_command[bench.follower]:9.2f} {per_command[NodeId(0)]:8.2f}"
        f" {sum(per_command.values()):8.2f}"
    )


def shares(bench: Bench, batch: int, seconds: float) -> list[tuple[str, float]]:
    """Share of the time inside functions of each layer, all three replicas together."""
    profile = cProfile.Profile()
    end = time.perf_counter() + seconds
    turns = 0
    profile.enable()
    while time.perf_counter() < end:
        bench.put(batch, turns)
        turns += 1
    profile.disable()
    root = str(Path(troth.__file__).parent) + "/"
    totals: dict[str, float] = {}
    for (path, _, name), (_, _, own_s, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        if path.startswith(root):
            layer = path.removeprefix(root).split("/")[0]
        elif "msgpack" in name or "msgspec" in name:
            layer = "msgspec (wire and log bytes)"
        elif path.endswith("profile_write.py"):
            continue
        else:
            layer = "the interpreter's own functions"
        totals[layer] = totals.get(layer, 0.0) + own_s
    total = sum(totals.values())
    return sorted(((layer, spent / total) for layer, spent in totals.items()), key=lambda row: -row[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="per row")
    options = parser.parse_args()
    gc.disable()
    bench = Bench()
    print("us of processor time per command\n          batch   leader  follower   client  all four")
    for title, action in (("put", bench.put), ("get", bench.get)):
        for batch in (1, 16, 64, 256):
            print(f"{title:>8} {batch:6d} {measure(bench, action, batch, options.seconds)}")
    for batch in (1, 64):
        print(f"\nshare of the time by layer, puts in batches of {batch}")
        for layer, share in shares(bench, batch, options.seconds):
            print(f"{share * 100:6.1f} %  {layer}")


if __name__ == "__main__":
    main()
