"""The replicated state machine: log entries in, results out. Every replica runs it over the same log.

The payload of a COMMANDS entry is a msgpack array of proposals ``[request id, command]``, and a command is one of
`LoggedCommand`, exactly as the client sent it.

Byte format of a state, version 2
=================================
Where the stream is cut into chunks means nothing::

    frame   length   4 bytes, little endian: size of the payload
            payload  msgpack
    state   StateHeader, one frame
            list[SessionState], one frame for each page (`sessions.pages`); a session's results may go on in the next
            an empty frame
            the store's stream (kv/snapshot.py)

In version 1 all sessions stand in the header, and the store follows that.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TypeAlias, assert_never

import msgspec

from troth.core.interface import Entry
from troth.errors import Corrupt
from troth.kv.requests import DeleteRange, Failure, LeaseRevoke, Result, Txn
from troth.kv.store import Store
from troth.replica.peers import Proposal
from troth.replica.protocol import CloseSession, OpenSession, Writes
from troth.replica.sessions import SessionState, SessionTable, pages

LoggedCommand: TypeAlias = Writes | OpenSession | CloseSession

Outcome: TypeAlias = list[Result] | int | Failure
"""Of Writes: the results, or one Failure for all; of OpenSession: the session's id; of CloseSession: 0."""

STATE_VERSION = 2

_PREPARED = frozenset({DeleteRange, LeaseRevoke})
_PREPARED_OUT_OF_ORDER = frozenset({DeleteRange, LeaseRevoke, Txn})

_encode = msgspec.msgpack.Encoder().encode
_payload_decoder: msgspec.msgpack.Decoder[list[Proposal]] = msgspec.msgpack.Decoder(list[Proposal])
_command_decoder: msgspec.msgpack.Decoder[LoggedCommand] = msgspec.msgpack.Decoder(LoggedCommand)


class StateHeader(msgspec.Struct, frozen=True, array_like=True):
    version: int
    sessions: list[SessionState]
    next_session: int


_header_decoder: msgspec.msgpack.Decoder[StateHeader] = msgspec.msgpack.Decoder(StateHeader)
_page_decoder: msgspec.msgpack.Decoder[list[SessionState]] = msgspec.msgpack.Decoder(list[SessionState])


encode_payload: Callable[[list[Proposal]], bytes] = _encode
"""The payload of a COMMANDS entry."""


def decode_command(body: bytes | msgspec.Raw) -> LoggedCommand:
    """One command; raises msgspec.DecodeError when it is none."""
    return _command_decoder.decode(body)


class StateMachine:
    """Store and sessions: all that the log determines."""

    def __init__(self, new_store: Callable[[], Store]) -> None:
        self._new_store = new_store
        self.store = new_store()
        self.sessions = SessionTable()
        self.saved_bytes = 0
        """How large the state was when it was last dumped or loaded."""
        self._prepared = False
        """Whether something may have been prepared."""

    def read(self, entry: Entry) -> list[Proposal]:
        """The proposals of a COMMANDS entry, in order: (request id, encoded command)."""
        return _payload_decoder.decode(entry.payload)

    def prepare(self, proposals: Iterable[tuple[int, LoggedCommand]]) -> Iterator[None] | None:
        """What is to be done, step by step, before *proposals* are applied; None: nothing (see `Store.prepare`)."""
        prepared = _PREPARED_OUT_OF_ORDER if self.store.space.order.is_behind else _PREPARED
        for _, command in proposals:
            if isinstance(command, Writes):
                for each in command.commands:
                    if type(each) in prepared:
                        batches = [command.commands for _, command in proposals if isinstance(command, Writes)]
                        self._prepared = True
                        return self.store.prepare(chain.from_iterable(batches))
        return None

    def apply(
        self, index: int, proposals: Iterable[tuple[int, LoggedCommand]]
    ) -> list[tuple[int, LoggedCommand, Outcome]]:
        """Apply the proposals of the entry at *index*: (request id, command, outcome) of each, in order."""
        outcomes: list[tuple[int, LoggedCommand, Outcome]] = []
        for request, command in proposals:
            match command:
                case Writes():
                    outcome: Outcome = self._apply_writes(command, index)
                case OpenSession():
                    outcome = self.sessions.open(command.nonce, index)
                case CloseSession():
                    self.sessions.close(command.session)
                    outcome = 0
                case _:
                    assert_never(command)
            outcomes.append((request, command, outcome))
        if self._prepared:
            self._prepared = False
            self.store.drop_prepared()
        return outcomes

    def _apply_writes(self, batch: Writes, index: int) -> Outcome:
        if not batch.session:
            return self.store.apply_batch(batch.commands, index)
        recalled = self.sessions.recall(batch.session, batch.first_seq, batch.acked_below, index)
        if recalled is not None:
            return recalled
        results = self.store.apply_batch(batch.commands, index)
        self.sessions.remember(batch.session, batch.first_seq, results)
        return results

    def dump(self) -> Iterator[bytes]:
        """The state at this moment, in chunks. Writes may go on while it is read.

        Everything that changes in place is copied now; the store hands out a frozen view.
        """
        sessions, next_session = self.sessions.dump()
        view = self.store.snapshot()
        header = _encode(StateHeader(STATE_VERSION, [], next_session))
        chunks = self._chunks(header, sessions, view.chunks(), view.close)
        next(chunks)
        return chunks

    def load(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by what `dump` wrote, cut into chunks of any size.

        Raises:
            Corrupt: this is not such a state.
        """
        for _ in self.load_steps(chunks):
            pass

    def load_steps(self, chunks: Iterable[bytes]) -> Iterator[None]:
        """`load` in short steps. The state is the old one until the last of them is done."""
        total = 0

        def counted() -> Iterator[bytes]:
            nonlocal total
            for chunk in chunks:
                total += len(chunk)
                yield chunk

        stream = _Stream(counted())
        try:
            header = _header_decoder.decode(stream.frame())
            if header.version > STATE_VERSION:
                raise Corrupt(f"snapshot version {header.version} is newer than this program", path="")
            sessions = SessionTable(header.sessions, header.next_session)
            while header.version > 1 and (page := stream.frame()):
                sessions.add(_page_decoder.decode(page))
                yield
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Corrupt(f"the snapshot's header cannot be read: {error}", path="") from None
        store = self._new_store()
        yield from store.load(stream.rest())
        self.store = store
        self.sessions = sessions
        self.saved_bytes = total

    def _chunks(
        self, header: bytes, sessions: list[SessionState], store: Iterator[bytes], close: Callable[[], None]
    ) -> Iterator[bytes]:
        """Begins with an empty chunk, which the maker takes: a generator that never began would not close its view."""
        total = 0
        try:
            yield b""
            frames = chain([header], map(_encode, pages(sessions)), [b""])
            for chunk in chain((len(frame).to_bytes(4, "little") + frame for frame in frames), store):
                total += len(chunk)
                yield chunk
            self.saved_bytes = total
        finally:
            close()


class _Stream:
    """The frames at the beginning of a stream that may be cut anywhere, and then the rest of it."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._data = bytearray()

    def frame(self) -> bytes:
        """The payload of the next frame."""
        return self._take(int.from_bytes(self._take(4), "little"))

    def rest(self) -> Iterator[bytes]:
        """All behind the frames that were taken."""
        if self._data:
            yield bytes(self._data)
        yield from self._pieces

    def _take(self, size: int) -> bytes:
        data = self._data
        while len(data) < size:
            piece = next(self._pieces, None)
            if piece is None:
                raise Corrupt("the snapshot ends within its header", path="")
            data += piece
        taken = bytes(data[:size])
        del data[:size]
        return taken
