"""The stream of a watch: where it runs, from where it goes on, how much waits; with servers that are lists."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from fake_server import asynchronous

from troth.client import watch as watch_module
from troth.client.router import Router
from troth.client.watch import Watch, Watches
from troth.kv.requests import Event, EventType, KeyValue
from troth.replica.protocol import (
    ClientMessage,
    WatchCancel,
    WatchCanceled,
    WatchCreate,
    WatchCreated,
    WatchEvents,
)
from troth.wire.frames import FrameSplitter

_decode = msgspec.msgpack.Decoder(ClientMessage).decode


class Server:
    """A connection; `asked` is what was sent over it."""

    def __init__(self) -> None:
        self.is_open = True
        self.asked: list[ClientMessage] = []

    def send(self, frame: bytes) -> None:
        self.asked += [_decode(body) for body in FrameSplitter(1 << 20).feed(frame)]

    @property
    def connection(self) -> "Server":
        return self


class Net:
    """Two servers, the first of which leads, and a router as far as watches need one."""

    def __init__(self) -> None:
        self.one, self.other = Server(), Server()
        self.leader: Server = self.one
        self.timeout_s = 5.0
        self.handlers: dict[type, Callable[[Any, Any], None]] = {}
        self.on_change: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []
        self.loop = SimpleNamespace(call_later=lambda seconds, call, watch: self.later.append(lambda: call(watch)))
        self.watches = Watches(cast(Router, self), read_from="any")

    def pick(self, request: object) -> Server | None:
        return self.leader if self.leader.is_open else None

    def watch(self, *, start_revision: int = 0, floor_revision: int = 0) -> Watch:
        watch = Watch(
            self.watches,
            b"a",
            b"",
            start_revision=start_revision,
            floor_revision=floor_revision,
            prev_kv=False,
            no_put=False,
            no_delete=False,
        )
        self.watches.add(watch)
        return watch

    def tell(self, message: WatchCreated | WatchEvents | WatchCanceled) -> None:
        self.handlers[type(message)](None, message)

    def changed(self) -> None:
        for callback in self.on_change:
            callback()


def news(number: int, revision: int, *revisions: int, size_bytes: int = 1) -> WatchEvents:
    events = [Event(EventType.PUT, KeyValue(b"a", 1, each, 1, bytes(size_bytes))) for each in revisions]
    return WatchEvents(number, revision, events)


def begun(server: Server) -> list[tuple[int, int]]:
    """The numbers under which streams were begun at *server*, and the revisions from which on."""
    return [(each.watch, each.start_revision) for each in server.asked if isinstance(each, WatchCreate)]


def ended(server: Server) -> list[int]:
    return [each.watch for each in server.asked if isinstance(each, WatchCancel)]


async def seen(watch: Watch) -> list[int]:
    return [event.kv.mod_revision for event in await watch.__anext__()]


def move(net: Net) -> None:
    """Another server leads from now on."""
    net.leader = net.other if net.leader is net.one else net.one
    net.changed()


# ---- from where ----


@asynchronous
async def test_a_watch_from_now_on_shows_nothing_that_its_client_has_seen() -> None:
    net = Net()
    watch = net.watch(floor_revision=10)
    assert begun(net.one) == [(1, 0)]
    net.tell(WatchCreated(1, 5))  # by a replica that lags behind
    net.tell(news(1, 12, 8, 10, 11, 12))
    assert await seen(watch) == [11, 12] and watch.revision == 12
    move(net)
    assert begun(net.other) == [(2, 13)]
    later = net.watch(floor_revision=10)
    net.tell(WatchCreated(3, 20))
    assert later.revision == 20
    move(net)
    assert begun(net.one)[-1] == (5, 21)


@asynchronous
async def test_a_watch_goes_on_behind_all_that_it_was_told_also_of_nothing() -> None:
    net = Net()
    net.watch(start_revision=3)
    assert begun(net.one) == [(1, 3)]
    (create,) = net.one.asked
    assert isinstance(create, WatchCreate) and create.progress_notify
    net.tell(WatchCreated(1, 50))
    net.tell(news(1, 30))
    net.tell(news(1, 12))
    move(net)
    assert begun(net.other) == [(2, 31)]


# ---- where ----


@asynchronous
async def test_a_watch_runs_at_the_leader_and_at_one_server_only() -> None:
    net = Net()
    watch = net.watch(start_revision=3)
    net.tell(WatchCreated(1, 2))
    net.changed()
    assert begun(net.one) == [(1, 3)], "it is there already"
    move(net)
    assert ended(net.one) == [1] and begun(net.other) == [(2, 3)]
    net.tell(news(1, 4, 4))
    net.tell(news(2, 5, 5))
    assert await seen(watch) == [5], "what comes late for an old stream finds nobody"


@asynchronous
async def test_a_watch_whose_connection_is_lost_begins_anew_where_there_is_a_server() -> None:
    net = Net()
    net.watch(start_revision=3)
    net.one.is_open = False
    net.changed()
    assert net.other.asked == []
    move(net)
    assert begun(net.other) == [(2, 3)]


@asynchronous
async def test_a_watch_that_its_server_gave_up_is_begun_again_once() -> None:
    net = Net()
    net.watch(start_revision=3)
    net.tell(WatchCreated(1, 2))
    net.tell(WatchCanceled(1, 2, 0, "too many watches", "overloaded"))
    net.changed()
    assert begun(net.one) == [(1, 3), (2, 3)]
    (restart,) = net.later
    restart()
    assert begun(net.one) == [(1, 3), (2, 3)], "it runs already"


@asynchronous
async def test_a_watch_that_ends_is_taken_back_once_and_goes_nowhere() -> None:
    net = Net()
    watch = net.watch(start_revision=3)
    waiting = asyncio.ensure_future(watch.next_events())
    await asyncio.sleep(0)
    await watch.close()
    await watch.close()
    assert await waiting is None
    assert ended(net.one) == [1]
    move(net)
    assert net.other.asked == []


# ---- how much waits ----


@asynchronous
async def test_a_full_buffer_ends_the_stream_until_half_of_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "BUFFER_EVENTS_MAX", 4)
    net = Net()
    watch = net.watch(start_revision=3)
    net.tell(WatchCreated(1, 2))
    for revision in range(3, 7):
        net.tell(news(1, revision, revision))
    assert ended(net.one) == []
    net.tell(news(1, 7, 7))
    assert ended(net.one) == [1]
    move(net)
    for revision in (3, 4, 5):
        assert await seen(watch) == [revision] and begun(net.other) == []
    assert await seen(watch) == [6]
    assert begun(net.other) == [(2, 8)]


@asynchronous
async def test_large_events_fill_the_buffer_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "BUFFER_BYTES_MAX", 1000)
    net = Net()
    watch = net.watch(start_revision=3)
    net.tell(WatchCreated(1, 2))
    net.tell(news(1, 3, 3, size_bytes=600))
    assert ended(net.one) == []
    net.tell(news(1, 4, 4, size_bytes=600))
    assert ended(net.one) == [1]
    assert await seen(watch) == [3] and begun(net.one) == [(1, 3)]
    assert await seen(watch) == [4] and begun(net.one) == [(1, 3), (2, 5)]
