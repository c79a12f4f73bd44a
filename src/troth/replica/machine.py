"""The replicated state machine: log entries in, results out. Every replica runs it over the same log.

The payload of a COMMANDS entry is a msgpack array of proposals ``[request id, command]``, and a command is one of
`LoggedCommand`, exactly as the client sent it.
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
from troth.replica.sessions import SessionState, SessionTable

LoggedCommand: TypeAlias = Writes | OpenSession | CloseSession

Outcome: TypeAlias = list[Result] | int | Failure
"""Of Writes: the results, or one Failure for all; of OpenSession: the session's id; of CloseSession: 0."""

STATE_VERSION = 1

_PREPARED = frozenset({DeleteRange, LeaseRevoke})
_PREPARED_OUT_OF_ORDER = frozenset({DeleteRange, LeaseRevoke, Txn})

_encode = msgspec.msgpack.Encoder().encode
_payload_decoder: msgspec.msgpack.Decoder[list[Proposal]] = msgspec.msgpack.Decoder(list[Proposal])
_command_decoder: msgspec.msgpack.Decoder[LoggedCommand] = msgspec.msgpack.Decoder(LoggedCommand)


class StateHeader(msgspec.Struct, frozen=True, array_like=True):
    """First chunk of a state: everything that is not the store."""

    version: int
    sessions: list[SessionState]
    next_session: int


_header_decoder: msgspec.msgpack.Decoder[StateHeader] = msgspec.msgpack.Decoder(StateHeader)


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
        header = _encode(StateHeader(STATE_VERSION, sessions, next_session))
        view = self.store.snapshot()
        chunks = self._chunks(header, view.chunks(), view.close)
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

        pieces = counted()
        head, rest = _split_header(pieces)
        try:
            header = _header_decoder.decode(head)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Corrupt(f"the snapshot's header cannot be read: {error}", path="") from None
        if header.version != STATE_VERSION:
            raise Corrupt(f"snapshot version {header.version} is newer than this program", path="")
        store = self._new_store()
        yield from store.load(_chain(rest, pieces))
        self.store = store
        self.sessions = SessionTable(header.sessions, header.next_session)
        self.saved_bytes = total

    def _chunks(self, header: bytes, store: Iterator[bytes], close: Callable[[], None]) -> Iterator[bytes]:
        """Begins with an empty chunk, which the maker takes: a generator that never began would not close its view."""
        total = 4 + len(header)
        try:
            yield b""
            yield len(header).to_bytes(4, "little") + header
            for chunk in store:
                total += len(chunk)
                yield chunk
            self.saved_bytes = total
        finally:
            close()


def _split_header(pieces: Iterator[bytes]) -> tuple[bytes, bytes]:
    """The header of a state, and what its last piece holds behind it."""
    data = bytearray()
    needed = 4
    for piece in pieces:
        data += piece
        if len(data) >= 4:
            needed = 4 + int.from_bytes(data[:4], "little")
        if len(data) >= needed:
            return bytes(data[4:needed]), bytes(data[needed:])
    raise Corrupt("the snapshot ends within its header", path="")


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest
