"""An acceptor behind the client port of a server.

A connection whose greeting is of the kind ``"register"`` speaks to the acceptor: numbered requests in, numbered
answers out, in any order (core/register/codec.py). The Welcome names the acceptor's id, which is not the server's: it
belongs to the directory ``registers`` and is drawn anew when that is.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from troth.core.register.codec import VALUE_BYTES_MAX, decode_ask, encode_answer
from troth.core.register.messages import Conflict, Holding, Promise, ReplyMessage, RequestMessage
from troth.errors import DecodeError, StorageError
from troth.ids import ClusterId
from troth.runtime.acceptors import AcceptorNode, Home
from troth.runtime.disk_machine import DiskMachine, Worker
from troth.wire.frames import head
from troth.wire.handshake import VERSION, Hello, Welcome

DIRECTORY = "registers"
"""Of a server's data directory."""

REGISTER_FRAME_BYTES_MAX = 2 * VALUE_BYTES_MAX
"""Of a request, in a server and alone: the largest has a key and a state, and most of that is its value."""

IN_FLIGHT_MAX = 1024
"""Requests of one connection that are not answered yet: some times as many as clients have."""

WRITE_BYTES_MAX = 1 << 20
"""About so many bytes of answers are made at once."""

UNREAD_BYTES_MAX = 4 << 20
"""About so many bytes of values wait for one connection to read. Others may overwrite them meanwhile, and then they are
held for it alone."""

UNREAD_SECONDS_MAX = 10.0
"""Who takes in nothing of what waits for it for so long is cut off."""

_log = logging.getLogger("troth.acceptor")


class AcceptorSession:
    """One connection's requests, and its answers gathered into one write a turn.

    A reply waits as it is, and becomes bytes when there is room for them. Beyond `UNREAD_BYTES_MAX` its request waits
    in its place, which is small, and is asked anew: the first answer has not left, and copies do no harm to a register,
    least of all of what is answered with a value (`Prepare`, `Read`). Until then no further request is read either: who
    asks for more than it can take in is answered as fast as it reads.
    """

    def __init__(self, node: AcceptorNode, transport: asyncio.Transport) -> None:
        self._node = node
        self._transport = transport
        self._in_flight = 0
        self._replies: deque[tuple[int, ReplyMessage]] = deque()
        self._unread_bytes = 0
        """Of the values in `_replies`."""
        self._put_off: deque[tuple[int, RequestMessage, int]] = deque()
        """With the bytes of the value that there was no room for."""
        self._flushes = False
        self._is_blocked = False
        self._patience: asyncio.TimerHandle | None = None

    def on_bodies(self, bodies: list[bytes]) -> None:
        """Frames have arrived.

        Raises:
            DecodeError: they are no requests, or far too many.
        """
        for body in bodies:
            number, request = decode_ask(body)
            self._in_flight += 1
            if self._in_flight > IN_FLIGHT_MAX:
                raise DecodeError(f"more than {IN_FLIGHT_MAX} requests of one connection are unanswered")
            self._ask(number, request)

    def _ask(self, number: int, request: RequestMessage) -> None:
        self._node.on_request(request, partial(self._answer, number, request))

    def pause_writing(self) -> None:
        """As of `asyncio.Protocol`: answers wait for the other side to read."""
        self._is_blocked = True
        self._read_on_or_pause()
        self._be_patient()

    def resume_writing(self) -> None:
        """As of `asyncio.Protocol`."""
        self._is_blocked = False
        if self._patience is not None:
            self._patience.cancel()
        self._read_on_or_pause()
        self._flush_soon()

    def _read_on_or_pause(self) -> None:
        has_room = not self._is_blocked and not self._put_off
        if self._transport.is_closing() or self._transport.is_reading() == has_room:
            return
        if has_room:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _be_patient(self) -> None:
        waiting_bytes = self._transport.get_write_buffer_size()
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(UNREAD_SECONDS_MAX, self._cut_off_unless_read, waiting_bytes)

    def _cut_off_unless_read(self, waiting_bytes: int) -> None:
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() < waiting_bytes:
            self._be_patient()
            return
        _log.warning("cut a connection off that has read nothing of its answers for %g s", UNREAD_SECONDS_MAX)
        self._transport.abort()

    def _answer(self, number: int, request: RequestMessage, reply: ReplyMessage) -> None:
        if isinstance(reply, Conflict):
            self._node.counters.conflicts += 1
        size_bytes = _value_bytes(reply)
        if size_bytes and self._unread_bytes >= UNREAD_BYTES_MAX:
            self._put_off.append((number, request, size_bytes))
            self._read_on_or_pause()
            return
        self._unread_bytes += size_bytes
        self._replies.append((number, reply))
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._replies and not self._flushes and not self._is_blocked:
            self._flushes = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushes = False
        if self._is_blocked or self._transport.is_closing():
            return
        parts: list[bytes] = []
        size_bytes = 0
        while self._replies and size_bytes < WRITE_BYTES_MAX:
            number, reply = self._replies.popleft()
            self._unread_bytes -= _value_bytes(reply)
            body = encode_answer(number, reply)
            parts += head(body), body
            size_bytes += len(body)
            self._in_flight -= 1
        self._transport.write(b"".join(parts))
        self._ask_anew()
        self._flush_soon()

    def _ask_anew(self) -> None:
        """Once all others are answered; what grew meanwhile and is too much again is put off again."""
        if not self._put_off or self._in_flight > len(self._put_off):
            return
        room_bytes = UNREAD_BYTES_MAX
        while self._put_off and room_bytes > 0:
            number, request, size_bytes = self._put_off.popleft()
            room_bytes -= size_bytes
            self._ask(number, request)
        self._read_on_or_pause()


def _value_bytes(reply: ReplyMessage) -> int:
    state = reply.state if isinstance(reply, Promise | Holding) else None
    return 0 if state is None else len(state.value or b"")


def welcome(node: AcceptorNode, hello: Hello, name: str) -> Welcome:
    """What a proposer is greeted with: the acceptor's id, and the set that it belongs to (0: to none yet)."""
    config = node.acceptor.config
    cluster = ClusterId(0 if config is None else config.id.cluster)
    return Welcome(min(hello.version, VERSION), cluster, node.acceptor.id, name)


class Registers:
    """The acceptor of a server, opened when the first proposer comes, or at the start if it has been there before."""

    def __init__(
        self,
        data_dir: str,
        *,
        machine: DiskMachine,
        failed: Callable[[BaseException], None],
        bytes_max: int,
        came_late: bool = False,
    ) -> None:
        """*came_late*: the server joined a cluster that ran already.

        Raises:
            StorageError: the directory is there and can not be used.
        """
        self._machine = machine
        self._directory = Path(data_dir) / DIRECTORY
        self._failed = failed
        self._bytes_max = bytes_max
        self._came_late = came_late
        self.node: AcceptorNode | None = None
        self._failure: StorageError | None = None
        self._opener: Worker | None = None
        self._waiting: list[Callable[[AcceptorNode | StorageError], None]] = []
        self._stopped = False
        if self._directory.exists():
            self._settle(self._home())

    def open(self, then: Callable[[AcceptorNode | StorageError], None]) -> None:
        """*then* is given the acceptor, now or on the loop, or why there is none.

        Its directory is made if need be: beside the loop, which has heartbeats to send meanwhile. If that fails (a full
        disk) nothing was promised, and it is not tried again by this process, which may see in the page cache what the
        disk never got.
        """
        known = self.node or self._failure
        if known is not None:
            then(known)
            return
        self._waiting.append(then)
        if self._opener is None:
            loop = asyncio.get_running_loop()
            self._opener = self._machine.worker(
                "troth-acceptor-opening", lambda error: loop.call_soon_threadsafe(self._failed, error)
            )
            self._opener.do(partial(self._open, loop))

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the opener."""
        try:
            found: Home | StorageError = self._home()
        except StorageError as error:
            found = error
        loop.call_soon_threadsafe(self._on_opened, found)

    def _home(self) -> Home:
        return Home(str(self._directory), machine=self._machine, bytes_max=self._bytes_max)

    def _on_opened(self, found: Home | StorageError) -> None:
        if self._opener is not None:
            self._opener.stop()
        if self._stopped:
            if isinstance(found, Home):
                found.close()
            return
        if isinstance(found, Home):
            self._settle(found)
        else:
            self._failure = found
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            self.open(then)

    def _settle(self, home: Home) -> None:
        self.node = AcceptorNode(home, machine=self._machine, failed=self._failed)
        self.node.acceptor.came_late = self._came_late

    def numbers(self) -> dict[str, int]:
        """For the metrics; empty while there is no acceptor."""
        if self.node is None:
            return {}
        held, done = self.node.acceptor.describe(), self.node.counters
        return {
            "registers": held.registers,
            "tombstones": held.tombstones,
            "bytes": held.bytes,
            "epoch": 0 if held.config is None else held.config.id.epoch,
            "seats": int(held.config is not None and held.config.seat_of(held.acceptor) is not None),
            "requests": done.requests,
            "turns": done.turns,
            "conflicts": done.conflicts,
            "snapshots": done.snapshots,
        }

    def stop(self) -> None:
        self._stopped = True
        if self._opener is not None:
            self._opener.stop()
        if self.node is not None:
            self.node.stop()
