"""Blocking connections to acceptors: a few sockets for each, one thread for each socket, and bounds on both.

A thread sends one request and waits for its answer, so a request to an acceptor that hangs holds a thread of that
acceptor alone. When all its threads are held further requests wait, up to `WAITING_MAX`, and then fail at once.
"""

import contextlib
import socket
import ssl
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from weakref import WeakSet

from troth.client.registers.leaving import close_at_exit
from troth.client.registers.lookup import Lookup
from troth.client.registers.patience import Rest
from troth.client.retry import error_of, in_words, ungreeted
from troth.core.register.codec import decode_answer, encode_ask
from troth.core.register.messages import ReplyMessage, RequestMessage
from troth.errors import DecodeError, TrothError
from troth.runtime import shortcut
from troth.runtime.addresses import Address, parse_address
from troth.wire.frames import FRAME_BYTES_MAX, HEAD, first_frame, frame
from troth.wire.handshake import Hello, Rejected, Welcome, decode_greeting, encode_greeting

THREADS_MAX = 8
"""For one acceptor."""

WAITING_MAX = 256
CONNECT_SECONDS_MAX = 2.0
"""For one attempt to connect, greetings included."""


class LineLost(TrothError):
    """Nothing came of a request: no connection, or it broke, or no answer in time. It may have arrived all the same,
    unless `sent` is False."""

    code = "line_lost"

    def __init__(self, text: str, *, sent: bool = True) -> None:
        super().__init__(text)
        self.sent = sent


def may_have_arrived(error: BaseException) -> bool:
    """Whether a request that failed with *error* may be at its acceptor."""
    return not isinstance(error, LineLost) or error.sent


class _Socket:
    """One connection, after its handshake."""

    def __init__(
        self, address: Address, tls: ssl.SSLContext | None, deadline: float, lookup: Lookup | None
    ) -> None:
        deadline = min(deadline, time.monotonic() + CONNECT_SECONDS_MAX)
        if lookup is None:
            plain = _unix(address.path, deadline)
        else:
            plain = _tcp(lookup, address.port, deadline, shortcuts=tls is None)
        self._socket = plain
        try:
            if tls is not None and lookup is not None:  # a unix socket speaks plain text everywhere
                with in_words(tls):
                    self._socket = tls.wrap_socket(plain, server_hostname=address.host)
            self._buffer = b""
            try:
                self._socket.sendall(frame(encode_greeting(Hello("register"))))
                greeting = decode_greeting(self._frame())
            except ConnectionError:
                raise ConnectionError(ungreeted("acceptor", is_tls=self._socket is not plain)) from None
            if isinstance(greeting, Rejected):
                raise error_of(greeting.code, greeting.text)
            if not isinstance(greeting, Welcome):
                raise DecodeError("the other side did not welcome us")
        except BaseException:
            self._socket.close()
            raise
        self.acceptor = greeting.node_id
        self.generation = 0
        """See `Line`."""
        self._number = 0
        self._is_busy = False

    def ask(self, request: RequestMessage, deadline: float) -> ReplyMessage:
        """Send *request* and wait for its answer.

        Raises:
            OSError, DecodeError: it is of no use any more; close it.
        """
        self._number += 1
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("no time is left")
        self._is_busy = True
        try:
            self._socket.settimeout(left_s)
            self._socket.sendall(frame(encode_ask(self._number, request)))
            while True:
                number, reply = decode_answer(self._frame())
                if number == self._number:
                    return reply
        finally:
            self._is_busy = False

    def _frame(self) -> bytes:
        buffer = self._buffer
        while True:
            try:
                body = first_frame(buffer, FRAME_BYTES_MAX)
            except DecodeError as error:
                raise DecodeError(f"is that a troth acceptor? {error}") from None
            if body is not None:
                self._buffer = buffer[HEAD.size + len(body) :]
                return body
            data = self._socket.recv(max(65536, len(buffer)))
            if not data:
                raise ConnectionError("the acceptor closed the connection")
            buffer += data

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()

    def interrupt(self) -> None:
        """From another thread: end it, or let the thread that waits in it do so."""
        with contextlib.suppress(OSError):  # to close it would not wake whoever waits, or is about to
            self._socket.shutdown(socket.SHUT_RDWR)
        if not self._is_busy:
            self.close()


def _unix(path: str, deadline: float) -> socket.socket:
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    plain.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        plain.connect(path)
    except BaseException:
        plain.close()
        raise
    return plain


def _tcp(lookup: Lookup, port: int, deadline: float, *, shortcuts: bool) -> socket.socket:
    """The first of a host's addresses that takes a connection."""
    failure: OSError = OSError("the host has no address")
    for host in lookup.addresses(deadline):
        left_s = max(0.001, deadline - time.monotonic())
        if shortcuts and (near := shortcut.dialed(host, port)) is not None:
            near.settimeout(left_s)
            return near
        try:
            plain = socket.create_connection((host, port), timeout=left_s)
        except OSError as error:
            failure = error
        else:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return plain
    raise failure


class Line:
    """All connections to the acceptor at one address."""

    def __init__(self, address: str, tls: ssl.SSLContext | None) -> None:
        self.address = address
        self.complaint = ""
        """Why the last request failed, with the address; empty when it did not."""
        self._where = where = parse_address(address)
        self._lookup = None if where.is_unix else Lookup(where.host, where.port)
        self._tls = tls
        self._pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix=f"troth {address}")
        self._local = threading.local()
        self._sockets: set[_Socket] = set()
        self._generation = 0
        """Raised when a connection breaks: others as old as that one were most likely to the same process, and it is
        gone. They are given up before a request is lost on each of them."""
        self._lock = threading.Lock()
        self._waiting: WeakSet[Future[ReplyMessage]] = WeakSet()
        """Answers of which a thread has not made up its mind yet. Weak: whatever moment Ctrl-C comes at, what was not
        handed to the threads by then is nobody's, and takes up no room."""
        self._rest = Rest()
        self._closed = False
        close_at_exit(self)

    def ask(self, request: RequestMessage, deadline: float, *, expect: int = 0) -> "Future[ReplyMessage]":
        """The answer to *request*, or `LineLost`. *expect*: the acceptor meant, if it matters who answers."""
        refused = ""
        # Not the pool's own future: if that is cancelled the pool keeps the request, and nobody would count it.
        answer: Future[ReplyMessage] = Future()
        with self._lock:
            if self._closed:
                refused = "the client is closed"
            elif len(self._waiting) >= WAITING_MAX:
                refused = f"{WAITING_MAX} requests wait for {self.address} already"
            elif time.monotonic() < self._rest.until_s:
                refused = self.complaint or "it could not be reached a moment ago"
            else:
                self._waiting.add(answer)
        if refused:
            answer.set_exception(LineLost(refused, sent=False))
            return answer
        try:
            job = self._pool.submit(self._answer, answer, request, deadline, expect)
        except RuntimeError:  # closed just now
            job = Future()
            job.cancel()
        job.add_done_callback(partial(_on_done, answer))
        return answer

    def _answer(
        self, answer: "Future[ReplyMessage]", request: RequestMessage, deadline: float, expect: int
    ) -> None:
        """In one of the line's threads; not at all if nobody waits for it any more."""
        try:
            if not answer.set_running_or_notify_cancel():
                return
            try:
                reply = self._ask(request, deadline, expect)
            except BaseException as error:  # noqa: BLE001 - as the pool does: whoever waits is told
                answer.set_exception(error)
            else:
                answer.set_result(reply)
        finally:
            with self._lock:
                self._waiting.discard(answer)

    def _ask(self, request: RequestMessage, deadline: float, expect: int) -> ReplyMessage:
        connection: _Socket | None = None
        try:
            connection = self._connection(deadline)
            if expect and connection.acceptor != expect:
                self._drop(connection)
                self.complaint = stranger(self.address, connection.acceptor, expect)
                raise LineLost(self.complaint, sent=False)
            if time.monotonic() >= deadline:
                raise LineLost(f"no time is left for {self.address}", sent=False)
            reply = connection.ask(request, deadline)
        except LineLost:
            raise
        except (OSError, TrothError) as error:
            if connection is not None:
                self._drop(connection, broken=not isinstance(error, TimeoutError))
            self.complaint = complaint_of(self.address, error)
            raise LineLost(self.complaint, sent=connection is not None) from error
        self.complaint = ""
        if self._closed:
            self._drop(connection)
        return reply

    def _connection(self, deadline: float) -> _Socket:
        generation = self._generation
        connection: _Socket | None = getattr(self._local, "connection", None)
        if connection is not None:
            if connection.generation == generation:
                return connection
            self._drop(connection)
        try:
            connection = _Socket(self._where, self._tls, deadline, self._lookup)
        except (OSError, TrothError):
            with self._lock:
                self._rest.begin(time.monotonic())
            raise
        connection.generation = generation
        with self._lock:
            is_closed = self._closed
            self._rest.end()
            self._sockets.add(connection)
        if is_closed:
            self._drop(connection)
            raise LineLost("the client is closed", sent=False)
        self._local.connection = connection
        return connection

    def _drop(self, connection: _Socket, *, broken: bool = False) -> None:
        self._local.connection = None
        connection.close()
        with self._lock:
            self._sockets.discard(connection)
            if broken and connection.generation == self._generation:
                self._generation += 1

    def close(self) -> None:
        """End all connections; threads that wait for an answer give up."""
        with self._lock:
            self._closed = True
            sockets = list(self._sockets)
        for connection in sockets:
            connection.interrupt()
        self._pool.shutdown(wait=False, cancel_futures=True)


def _on_done(answer: "Future[ReplyMessage]", job: "Future[None]") -> None:
    """A request was taken out of the pool; by `close`, if it was cancelled."""
    if job.cancelled() and answer.set_running_or_notify_cancel():
        answer.set_exception(LineLost("the client is closed", sent=False))


def complaint_of(address: str, error: BaseException) -> str:
    """What *error* is to whoever asks the acceptor at *address*."""
    text = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return f"{address}: {text}"


def stranger(address: str, acceptor: int, wanted: int) -> str:
    """What it is that *acceptor* answers at *address*, instead of the one *wanted*."""
    return (
        f"acceptor {acceptor:x} answers at {address}, not {wanted:x}: its directory was emptied or replaced, so it has "
        "no voice; `troth paxos acceptors set` gives it one, if a quorum of the set is left"
    )


def failure_of(future: "Future[ReplyMessage]", deadline: float) -> BaseException | None:
    """Why *future* has no result, waiting for it no longer than that: it may be behind others' requests."""
    try:
        return future.exception(max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        return LineLost("it has not answered in time")
