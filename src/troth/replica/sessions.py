"""Exactly-once: the replicated memory of what each client has already been answered (thesis §6.3).

A client numbers its batches of commands; a batch that arrives again (a retry after a lost answer) finds its
results here and is not applied twice. The client says which answers it has, so the memory stays as small as what is
outstanding. Sessions are part of the replicated state: every replica has the same table at the same log index.
"""

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

import msgspec
from msgspec.structs import replace

from troth.errors import AnswerLost, InvalidRequest, Overloaded, SessionExpired
from troth.kv.answers import results_bytes
from troth.kv.requests import Failure, Result

SESSIONS_MAX = 10_000
"""When one more is opened, the one that has been idle longest (in log order) is forgotten."""

RESULTS_MAX = 65_536
"""Batches whose results one session may keep unacknowledged: far more than a client has outstanding."""

KEPT_BYTES_MAX = 128 << 20
"""What the results of all sessions may hold together. Beyond it those of the longest idle sessions are given up."""


PAGE_BYTES = 256 << 10
"""What `pages` puts into one page, about: a millisecond's work."""

_SESSION_BYTES = 64
_STALE_SLACK = 64


class SessionState(msgspec.Struct, array_like=True):
    """One client. `results` maps the first number of a batch to its results, until the client has acknowledged.

    An empty list (a batch is never empty) says that the batch was applied and its results were given up.
    """

    id: int
    nonce: int
    acked_below: int = 0
    results: dict[int, list[Result]] = {}
    last_used: int = 0
    """Log index of the last batch: idleness that all replicas agree about."""


class SessionTable:
    """All sessions, by id; ids are never used twice."""

    def __init__(
        self,
        sessions: list[SessionState] | None = None,
        next_id: int = 1,
        *,
        kept_bytes_max: int = KEPT_BYTES_MAX,
    ) -> None:
        self._sessions: dict[int, SessionState] = {}
        self._by_nonce: dict[int, int] = {}
        self._next_id = next_id
        self._kept_bytes_max = kept_bytes_max
        self._kept: dict[int, dict[int, int]] = {}
        """Session -> batch -> bytes of its results, for sessions that have had some."""
        self._kept_bytes = 0
        self._idle: list[tuple[int, int]] = []
        """(last used, session) as a heap. A session that was used since is put back when it comes up; one that is not
        there any more drops out."""
        self.add(sessions or [])

    def add(self, sessions: Iterable[SessionState]) -> None:
        """Take over *sessions* of another table; one that is there already gets more results."""
        for session in sessions:
            mine = self._sessions.setdefault(session.id, session)
            if mine is session:
                self._by_nonce[session.nonce] = session.id
                heappush(self._idle, (session.last_used, session.id))
            else:
                mine.results.update(session.results)
            if session.results:
                sizes = {first: results_bytes(results) for first, results in session.results.items()}
                self._kept.setdefault(session.id, {}).update(sizes)
                self._kept_bytes += sum(sizes.values())

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, nonce: int, index: int) -> int:
        """A session for *nonce*: the one it has already, when the request to open it was repeated."""
        known = self._by_nonce.get(nonce)
        if known is not None:
            return known
        if len(self._sessions) >= SESSIONS_MAX:
            self.close(self._longest_idle())
        session = SessionState(id=self._next_id, nonce=nonce, last_used=index)
        self._next_id += 1
        self._sessions[session.id] = session
        self._by_nonce[nonce] = session.id
        heappush(self._idle, (index, session.id))
        return session.id

    def _longest_idle(self) -> int:
        """The session that has not been used for longest; of two the older one."""
        idle = self._idle
        while True:
            noted, session_id = heappop(idle)
            session = self._sessions.get(session_id)
            if session is not None and session.last_used == noted:
                return session_id
            if session is not None:
                heappush(idle, (session.last_used, session_id))

    def close(self, session_id: int) -> None:
        """Forget a session; batches that still come for it are refused."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            del self._by_nonce[session.nonce]
            self._kept_bytes -= sum(self._kept.pop(session_id, {}).values())
            if len(self._idle) > 2 * len(self._sessions) + _STALE_SLACK:
                self._idle = [(each.last_used, each.id) for each in self._sessions.values()]
                heapify(self._idle)

    def recall(
        self, session_id: int, first_seq: int, acked_below: int, index: int
    ) -> list[Result] | Failure | None:
        """What is known of a batch: its results, None when it is new, a Failure when the session is gone or full.

        Forgets what the client says it has.
        """
        session = self._sessions.get(session_id)
        if session is None:
            return SESSION_GONE
        session.last_used = index
        if acked_below > session.acked_below:
            session.acked_below = acked_below
            sizes = self._kept[session_id] if session.results else {}
            for first in list(session.results):
                if first < acked_below:
                    del session.results[first]
                    self._kept_bytes -= sizes.pop(first, 0)
        if first_seq < session.acked_below:
            return ANSWERED  # the client has said that it has this answer; nobody waits for it
        known = session.results.get(first_seq)
        if known is None and len(session.results) >= RESULTS_MAX:
            return UNACKNOWLEDGED
        return ANSWER_LOST if known == [] else known

    def remember(self, session_id: int, first_seq: int, results: list[Result]) -> None:
        """Keep the results of a batch that has just been applied."""
        self._sessions[session_id].results[first_seq] = results
        size_bytes = results_bytes(results)
        self._kept.setdefault(session_id, {})[first_seq] = size_bytes
        self._kept_bytes += size_bytes
        if self._kept_bytes > self._kept_bytes_max:
            self._give_up_some()

    def _give_up_some(self) -> None:
        """Down to half of the bound, so that it is not done for every batch. What goes first depends on nothing but
        the state: a replica that was restored from a snapshot gives up the same."""
        sessions = self._sessions
        for session_id in sorted(self._kept, key=lambda each: (sessions[each].last_used, each)):
            for first_seq in sorted(self._kept[session_id]):
                if self._kept_bytes <= self._kept_bytes_max // 2:
                    return
                sessions[session_id].results[first_seq] = []
                self._kept_bytes -= self._kept[session_id].pop(first_seq)

    def dump(self) -> tuple[list[SessionState], int]:
        """Everything as it is now, in an order that all replicas share."""
        sessions = self._sessions
        copied = [replace(sessions[each], results=sessions[each].results.copy()) for each in sorted(sessions)]
        return copied, self._next_id


def pages(sessions: Iterable[SessionState]) -> Iterator[list[SessionState]]:
    """*sessions* in pages for `SessionTable.add`; one with many results comes in several parts."""
    page: list[SessionState] = []
    room_bytes = PAGE_BYTES
    for session in sessions:
        part = replace(session, results={})
        page.append(part)
        room_bytes -= _SESSION_BYTES
        for first_seq, results in session.results.items():
            if room_bytes <= 0:
                yield page
                part = replace(session, results={})
                page, room_bytes = [part], PAGE_BYTES
            part.results[first_seq] = results
            room_bytes -= results_bytes(results)
        if room_bytes <= 0:
            yield page
            page, room_bytes = [], PAGE_BYTES
    if page:
        yield page


SESSION_GONE = Failure(SessionExpired.code, "the session is unknown: it was closed, or idle for too long")
ANSWER_LOST = Failure(
    AnswerLost.code,
    "the write was applied, but what it answered is no longer kept; read the present state to see what it did",
)
ANSWERED = Failure(
    InvalidRequest.code, "this batch was answered before, and the client has said that it has the answer"
)
UNACKNOWLEDGED = Failure(Overloaded.code, "too many answers of this session wait to be acknowledged (acked_below)")
