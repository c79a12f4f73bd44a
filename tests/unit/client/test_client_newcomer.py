"""Who is added to a cluster, under which name and addresses, and who is not."""

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from fake_server import asynchronous

from troth.client.newcomer import addable, introduced, known
from troth.core.interface import Member
from troth.errors import Unavailable, UsageError
from troth.ids import ClusterId, NodeId
from troth.replica.protocol import PeerView
from troth.runtime.genesis import Introduction

NEWCOMER = Introduction(
    node_id=NodeId(4),
    name="n4",
    peer_address="h4:2",
    client_address="h4:1",
    awaits_add=True,
)


def cluster(*members: PeerView) -> Any:
    """What a server of the cluster says, as far as it matters here."""

    class Status:
        cluster_id = ClusterId(7)
        consensus = "raft"
        peers = [PeerView(NodeId(1), Member("n1", "h1:2", "h1:1"), voter=True), *members]

    return Status


def test_a_newcomer_becomes_a_member_where_it_says_it_is() -> None:
    """It may have answered at its peer address, or under another name of its host."""
    assert known(NEWCOMER, cluster()) is None
    assert addable(NEWCOMER, cluster(), promote=False) == Member("n4", "h4:2", "h4:1", promote=False)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cluster_id": 8, "awaits_add": False}, "n4 belongs to another cluster (8); .*--await-add"),
        ({"awaits_add": False}, "n4 is not a member of any cluster yet, but was not started with --await-add"),
        ({"consensus": "paxos"}, "n4 runs consensus paxos, the cluster raft"),
        ({"name": "n1"}, "the cluster has a server called n1 already: start this one with another --name"),
    ],
)
def test_who_would_never_be_a_member_is_refused(changes: dict[str, Any], why: str) -> None:
    newcomer = msgspec.structs.replace(NEWCOMER, **changes)
    with pytest.raises(UsageError, match=re.escape(why).replace(r"\.\*", ".*")):
        addable(newcomer, cluster(), promote=True)


def test_a_member_of_the_cluster_that_was_lost_from_it_is_added_again() -> None:
    newcomer = msgspec.structs.replace(NEWCOMER, cluster_id=ClusterId(7), awaits_add=False)
    assert addable(newcomer, cluster(), promote=True).promote


def test_a_member_is_known_only_where_it_says_it_is() -> None:
    member = PeerView(NodeId(4), Member("n4", "h4:2", "h4:1"), voter=False)
    assert known(NEWCOMER, cluster(member)) is member
    for elsewhere in (Member("n4", "h9:2", "h4:1"), Member("n4", "h4:2", "h9:1")):
        with pytest.raises(UsageError, match=r"^n4 is a member already, but .*h9.*troth member remove n4"):
            known(NEWCOMER, cluster(PeerView(NodeId(4), elsewhere, voter=True)))


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def asked(answer: Answer, tls: ssl.SSLContext | None) -> str:
    """What is said of a server that answers every connection so."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Unavailable) as caught:
            await introduced(address, tls)
    assert str(caught.value).startswith(f"{address}: ")
    return str(caught.value)


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.close()


async def is_the_web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


@pytest.mark.parametrize("answer", [hangs_up, is_the_web])
@asynchronous
async def test_who_does_not_say_who_it_is_is_named_and_asked_for_tls(answer: Answer) -> None:
    said = await asked(answer, None)
    assert said.endswith("is that the client address of a troth server without TLS, as the cluster's are?")


@asynchronous
async def test_a_server_without_tls_is_named_to_a_cluster_that_has_it() -> None:
    assert "is this port one without TLS" in await asked(is_the_web, ssl.create_default_context())
