"""Messages that are well formed and make no sense: any type, any field, any number. The server answers or refuses."""

import enum
import random
import socket
import types
import typing

import msgspec
import pytest
from real_cluster import cluster_of, until

from troth.kv import requests
from troth.kv.requests import Alarm, Put
from troth.replica.protocol import ChangeMembers, ClientMessage
from troth.wire.frames import frame
from troth.wire.handshake import Hello, encode_greeting

pytestmark = pytest.mark.integration

NUMBERS = (0, 1, 2, 3, -1, -2, 5, 100, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64 - 1)
TEXTS = (b"", b"a", b"b", b"\0", b"\xff" * 3, b"key", b"x" * 1000)
DEPTH_MAX = 4


class Nonsense:
    """Makes a value of any type that the protocol uses."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def of(self, kind: typing.Any, depth: int = 0) -> typing.Any:
        pick = self.chance.choice
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            return self.of(pick(arguments), depth)
        if origin in (tuple, list):
            count = 0 if depth >= DEPTH_MAX else self.chance.randrange(4)
            return origin(self.of(arguments[0], depth + 1) for _ in range(count))
        if isinstance(kind, str | typing.ForwardRef):
            name = kind if isinstance(kind, str) else kind.__forward_arg__
            return self.of(getattr(requests, name), depth)
        if hasattr(kind, "__supertype__"):
            return self.of(kind.__supertype__, depth)
        if kind is Alarm:
            # A raised alarm would make the server refuse all that follows.
            kind = Put
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return pick(list(kind))
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            hints = typing.get_type_hints(kind)
            return kind(
                **{each.name: self.of(hints[each.name], depth + 1) for each in msgspec.structs.fields(kind)}
            )
        plain = {int: NUMBERS, bytes: TEXTS, bool: (True, False), str: ("", "x"), type(None): (None,)}
        return pick(plain[kind])


@pytest.mark.parametrize("seed", [1, 2])
def test_well_formed_nonsense_is_survived_now_and_by_a_restart(seed: int) -> None:
    nonsense = Nonsense(seed)
    kinds = [kind for kind in typing.get_args(ClientMessage) if kind is not ChangeMembers]
    with cluster_of(1) as cluster:
        cluster.leader()
        server = cluster.servers["n1"]
        host, _, port = server.config.client_address.rpartition(":")
        opened: socket.socket | None = None
        for _ in range(4000):
            if opened is None:
                opened = socket.create_connection((host, int(port)), timeout=10)
                opened.sendall(frame(encode_greeting(Hello("client"))))
            try:
                opened.sendall(frame(msgspec.msgpack.encode(nonsense.of(nonsense.chance.choice(kinds)))))
                opened.setblocking(False)
                while opened.recv(1 << 20):
                    pass
                raise ConnectionResetError
            except BlockingIOError:
                opened.setblocking(True)
            except OSError:
                opened.close()
                opened = None
        if opened is not None:
            opened.close()
        assert server.is_alive
        with cluster.connect(timeout=20.0) as client:
            client.put("sense", "again")
            before = client.hash()["n1"]
        cluster.kill("n1")
        cluster.restart("n1")
        with cluster.connect(timeout=20.0) as client:
            until(lambda: client.get("sense").value == b"again")
            after = client.hash(revision=before.revision)["n1"]
        assert after.revision >= before.revision
        assert (after.hash, after.compact_revision) == (before.hash, before.compact_revision)
