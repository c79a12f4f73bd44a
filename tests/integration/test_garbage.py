"""Bytes that mean nothing, on every port, while the cluster works."""

import random
import socket

import msgspec
import pytest
from real_cluster import Load, cluster_of, verified

from troth.ids import ClusterId, NodeId
from troth.replica.protocol import Ping
from troth.wire.frames import frame
from troth.wire.handshake import Hello, encode_greeting

pytestmark = pytest.mark.integration


def connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    opened = socket.create_connection((host, int(port)), timeout=10)
    return opened


def test_garbage_on_every_port_disturbs_nobody() -> None:
    chance = random.Random(7)
    with cluster_of(3) as cluster:
        node_ids = {name: cluster.node_id(name) for name in cluster.names}
        cluster_id = ClusterId(cluster.servers["n1"].status().cluster_id)
        with Load(cluster.url) as load:
            for name in cluster.names:
                config = cluster.servers[name].config
                other = next(node_ids[each] for each in cluster.names if each != name)
                as_client = frame(encode_greeting(Hello("client")))
                as_peer = frame(
                    encode_greeting(Hello("peer", cluster_id=cluster_id, node_id=other, to=node_ids[name]))
                )
                for address, greeting in ((config.client_address, as_client), (config.peer_address, as_peer)):
                    for _ in range(20):
                        noise = chance.randbytes(chance.randrange(1, 2000))
                        for data in (noise, frame(noise), greeting + noise, greeting + frame(noise)):
                            with connected(address) as opened:
                                opened.sendall(data)
                    no_text = encode_greeting(Hello("client", name="abcd")).replace(b"abcd", b"\xff\xfe\xfd\xfc")
                    with connected(address) as opened:
                        opened.sendall(frame(no_text))
                    with connected(address) as silent, connected(address) as half:
                        half.sendall(greeting[:7])
                        silent.sendall(b"")
                        load.wait_more(20)
            load.wait_more(100)
        for name, server in cluster.servers.items():
            assert server.is_alive, name
            counters = server.dump()
            assert counters["clients"]["garbage"] > 20 and counters["peers"]["garbage"] > 20
            assert cluster.log_file(name).read_text().count("warning") < 6, "logged once, then counted"
        verified(cluster, load)


def test_a_recorded_conversation_sent_twice_or_cut_is_survived() -> None:
    with cluster_of(1) as cluster:
        address = cluster.servers["n1"].config.client_address
        good = frame(encode_greeting(Hello("client", node_id=NodeId(0)))) + frame(msgspec.msgpack.encode(Ping(1)))
        for cut in range(1, len(good)):
            with connected(address) as opened:
                opened.sendall(good[:cut])
        with connected(address) as opened:
            opened.sendall(good + good)
        with cluster.connect() as client:
            client.put("still", "here")
