"""How a replica serves reads, level by level (see reads.py for what each level waits for)."""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import assert_never

import msgspec

from troth.errors import InvalidRequest, Overloaded, Unavailable
from troth.ids import NodeId, Tick
from troth.kv import refusals
from troth.kv.answers import kvs_bytes
from troth.kv.order import STEP_KEYS as ORDER_STEP_KEYS
from troth.kv.order import T
from troth.kv.ranges import STEP_KEYS, encoded_steps, keys_looked_at
from troth.kv.requests import Failure, Range, RangeResult
from troth.models import LevelName, ReadLevel
from troth.replica.effects import ClientId
from troth.replica.peers import AskRevision, TellRevision
from troth.replica.pieces import PAGE_ITEMS, LongAnswer, in_pieces, listed_steps
from troth.replica.protocol import (
    READS_REQUESTS_MAX,
    CallRefused,
    HashState,
    LeaseIds,
    LeaseView,
    ReadResults,
    Reads,
    ServerMessage,
    StateHash,
)
from troth.replica.reads import Waiting
from troth.replica.state import NOBODY, ReplicaStart
from troth.replica.writes import WritePath

MAKING_MAX = 16
"""Answers that take long (hashes, long lists) and are not made yet; each keeps what it is made of."""

KEYS_PER_TURN = 50_000
"""How many keys of ranges are read in one turn, about; what is left waits for the next one."""

ORDER_COST = 16
"""To put a key in order takes as long as to read so many."""


@dataclass(slots=True)
class _Serving:
    """A message of reads that is being answered."""

    client: ClientId
    message: Reads
    age_ticks: int
    since: Tick
    room_bytes: int
    results: list[RangeResult | Failure] = field(default_factory=list)
    long: dict[int, bytearray] = field(default_factory=dict)
    """Which of the results are long, and their keys and values, encoded."""
    steps: Generator[None, None, tuple[RangeResult | Failure, bytearray]] | None = None
    """Of the range that is being read, if it is a long one."""


def _encoded(
    steps: Generator[None, None, RangeResult], bytes_max: int
) -> Generator[None, None, tuple[RangeResult | Failure, bytearray]]:
    """The range that *steps* read, without its keys and values, and those, encoded in steps as well."""
    found = yield from steps
    kvs = yield from encoded_steps(found.kvs, bytes_max)
    if kvs is None:
        return refusals.ANSWER_TOO_LARGE, bytearray()
    return msgspec.structs.replace(found, kvs=[]), kvs


class ReadPath(WritePath):
    """From `Reads` to `ReadResults`."""

    def __init__(self, start: ReplicaStart) -> None:
        super().__init__(start)
        self._questions: dict[int, tuple[int, Waiting]] = {}
        """AskRevision context -> (revisions it may be behind, the read)."""
        self._next_question = start.rng.getrandbits(48)
        """No answer to the life before, which may still be on its way, is taken for one to this."""
        self._keys_left = KEYS_PER_TURN
        """What may still be read before there has to be another turn."""
        self._unserved: deque[_Serving] = deque()
        """What is left for the next turns."""
        self._making: deque[tuple[ClientId, Generator[None, None, ServerMessage | LongAnswer]]] = deque()
        """Answers that are made in steps: for whom, and the steps."""

    def _on_reads(self, client: ClientId, message: Reads) -> None:
        level = message.level
        if len(message.requests) > READS_REQUESTS_MAX:  # those of single keys are served in one turn
            text = f"at most {READS_REQUESTS_MAX} reads are asked for at once"
            self._refuse_call(client, message.call, InvalidRequest.code, text)
            return
        if (
            len(self._reads) + len(self._unserved) >= self._config.reads_waiting_max
            or len(self._questions) >= self._config.reads_waiting_max
        ):
            self._refuse_call(client, message.call, Overloaded.code, "too many reads wait here; send less at once")
            return

        def serve(age_ticks: int) -> None:
            self._serve(client, message, age_ticks)

        waiting = self._waiting(client, message.call, serve)
        match level.name:
            case LevelName.LINEARIZABLE:
                self._reads.wait_point(waiting)
            case LevelName.EVENTUAL:
                serve(-1)
            case LevelName.SESSION | LevelName.SEQUENTIAL:
                if self.machine.store.revision >= level.seen_revision:
                    serve(-1)
                else:
                    self._reads.wait_revision(level.seen_revision, waiting)
            case LevelName.BOUNDED_TIME:
                age = self._reads.age(self._now)
                if age is not None and self._ms(age + 1) <= level.staleness_ms_max:
                    serve(age + 1)
                else:
                    self._reads.wait_point(waiting)
            case LevelName.BOUNDED_REVISIONS:
                self._ask_revision(level, waiting)
            case _:
                assert_never(level.name)

    def _serve(self, client: ClientId, message: Reads, age_ticks: int) -> None:
        """Answer from the state as it is. *age_ticks*: how old it may be; 0: a read point vouches; -1: unknown."""
        serving = _Serving(client, message, age_ticks, self._now, self._config.answer_bytes_max)
        # Reads of single keys overtake ranges that take long.
        waits = bool(self._unserved) and any(request.range_end for request in message.requests)
        if waits or not self._go_on_serving(serving):
            self._unserved.append(serving)
            self._out.again = True

    def _serve_rest(self) -> None:
        """A new turn: go on with what the last ones left. Reading later makes nothing staler than it was."""
        self._keys_left = KEYS_PER_TURN
        while self._unserved:
            serving = self._unserved[0]
            if serving.client not in self._clients:
                if serving.steps is not None:
                    serving.steps.close()
            elif not self._go_on_serving(serving):
                break
            self._unserved.popleft()
        self._out.again |= bool(self._unserved)

    def _go_on_serving(self, serving: "_Serving") -> bool:
        """Read what is left of *serving*, and answer; False: this turn has read enough."""
        message, results = serving.message, serving.results
        store, bytes_max = self.machine.store, self._config.answer_bytes_max
        room_bytes = serving.room_bytes
        size_bytes = 0
        for request in message.requests[len(results) :] if results else message.requests:
            if request.range_end:
                if self._keys_left <= 0 or not self._in_order():
                    serving.room_bytes = room_bytes
                    return False
                keys_count = keys_looked_at(store.space, request)
                if room_bytes > 0 and (serving.steps is not None or keys_count > STEP_KEYS):
                    long = self._read_more(serving, request)
                    if long is None:
                        serving.room_bytes = room_bytes
                        return False
                    result, kvs_encoded = long
                    size_bytes = len(kvs_encoded)
                    if size_bytes <= room_bytes:
                        serving.long[len(results)] = kvs_encoded
                else:
                    self._keys_left -= keys_count
                    result = store.range(request) if room_bytes > 0 else refusals.ANSWERS_TOO_LARGE
            else:
                result = store.range(request) if room_bytes > 0 else refusals.ANSWERS_TOO_LARGE
            if type(result) is RangeResult and (kvs := result.kvs):
                size_bytes = kvs_bytes(kvs)
            if size_bytes:
                room_bytes -= size_bytes
                if size_bytes > bytes_max:
                    result = refusals.ANSWER_TOO_LARGE
                elif room_bytes < 0:
                    result = refusals.ANSWERS_TOO_LARGE
                size_bytes = 0
            results.append(result)
        waited_ticks = self._now - serving.since
        age = serving.age_ticks
        staleness_ms = self._ms(age + waited_ticks) if age >= 0 else self._staleness_ms()
        reply = ReadResults(message.call, message.level.name, store.revision, results, staleness_ms)
        self._reply(serving.client, in_pieces(reply, serving.long) if serving.long else reply)
        return True

    def _in_order(self) -> bool:
        """Bring the order of the keys up to date; False: this turn has done enough for that."""
        order = self.machine.store.space.order
        while order.is_behind and self._keys_left > 0:
            order.settle_some(ORDER_STEP_KEYS)
            self._keys_left -= ORDER_COST * ORDER_STEP_KEYS
        return not order.is_behind

    def _read_more(self, serving: "_Serving", request: Range) -> tuple[RangeResult | Failure, bytearray] | None:
        """Go on with a range of very many keys; None: this turn has read enough."""
        if serving.steps is None:
            begun = self.machine.store.range_steps(request)
            if isinstance(begun, Failure):
                return begun, bytearray()
            serving.steps = _encoded(begun, self._config.answer_bytes_max)
        while self._keys_left > 0:
            self._keys_left -= STEP_KEYS
            try:
                next(serving.steps)
            except StopIteration as done:
                serving.steps = None
                result: tuple[RangeResult | Failure, bytearray] = done.value
                return result
        return None

    def _staleness_ms(self) -> int:
        """What this replica knows of its own staleness; -1: nothing."""
        age = self._reads.age(self._now)
        return -1 if age is None else self._ms(age + 1)

    def _ask_revision(self, level: ReadLevel, waiting: Waiting) -> None:
        """bounded(revisions): learn the newest revision from the leader, then wait to be close enough to it."""
        leader = self._leader
        if leader in (self.engine.node_id, NOBODY):
            self._reads.wait_point(waiting)
            return
        context = self._next_question
        self._next_question += 1
        self._questions[context] = (level.revisions_behind_max, waiting)
        self._out.send.append((leader, AskRevision(context)))

    def _expire_reads(self) -> None:
        """Refuse what has waited too long; reads have no effect, so the answer is definite."""
        text = "this server could not become as fresh as was asked for in time"
        self._reads.expire(self._now, Unavailable.code, text)
        for context in [context for context, (_, each) in self._questions.items() if each.deadline <= self._now]:
            self._questions.pop(context)[1].refuse(Unavailable.code, text)

    def _on_ask_revision(self, sender: NodeId, message: AskRevision) -> None:
        def tell(revision: int) -> None:
            self._out.send.append((sender, TellRevision(message.context, revision)))

        self._reads.wait_point(
            Waiting(
                lambda _: tell(self.machine.store.revision),
                lambda _code, _text: tell(0),
                Tick(self._now + self._config.read_timeout_ticks),
            )
        )

    def _on_tell_revision(self, message: TellRevision) -> None:
        question = self._questions.pop(message.context, None)
        if question is None:
            return
        behind, waiting = question
        if not message.revision:
            waiting.refuse(Unavailable.code, "the leader could not be confirmed")
        elif self.machine.store.revision >= message.revision - behind:
            waiting.serve(-1)
        else:
            self._reads.wait_revision(message.revision - behind, waiting)

    def _on_hash(self, client: ClientId, message: HashState) -> None:
        """The fingerprint of the state as it is here, so that replicas can be compared."""
        store = self.machine.store
        failure = store.readable(message.revision)
        if failure is not None:
            self._refuse_call(client, message.call, failure.code, failure.text)
            return
        told = StateHash(message.call, 0, store.revision, store.compact_revision, self._applied)
        if self._may_make(client, message.call):
            self._make(client, _hashed(told, store.hash_steps(message.revision)))

    def _list(self, client: ClientId, reply: LeaseView | LeaseIds, items: list[T]) -> None:
        """Answer with *reply*, in whose empty list at the end *items* are to stand, sorted."""
        if len(items) <= PAGE_ITEMS:
            key_or_id = "keys" if isinstance(reply, LeaseView) else "ids"
            self._reply(client, msgspec.structs.replace(reply, **{key_or_id: sorted(items)}))
        elif self._may_make(client, reply.call):
            self._make(client, _listed(reply, items, self._config.answer_bytes_max))

    def _may_make(self, client: ClientId, call: int) -> bool:
        """Whether one more answer that takes long may be made."""
        if len(self._making) < MAKING_MAX:
            return True
        self._refuse_call(
            client, call, Overloaded.code, "too many answers that take long are being made here already"
        )
        return False

    def _make(self, client: ClientId, steps: Generator[None, None, ServerMessage | LongAnswer]) -> None:
        """Have *steps* taken one by one, in the turns that come."""
        self._making.append((client, steps))
        self._out.again = True

    def _make_more(self) -> None:
        """One step of the answer that was asked for first. What is written meanwhile is not in it."""
        client, steps = self._making[0]
        if client in self._clients:
            try:
                next(steps)
            except StopIteration as done:
                self._reply(client, done.value)
                self._making.popleft()
        else:
            steps.close()
            self._making.popleft()
        self._out.again |= bool(self._making)


def _hashed(told: StateHash, steps: Generator[None, None, int]) -> Generator[None, None, StateHash]:
    return msgspec.structs.replace(told, hash=(yield from steps))


def _listed(
    reply: LeaseView | LeaseIds, items: list[T], bytes_max: int
) -> Generator[None, None, LongAnswer | CallRefused]:
    answer = yield from listed_steps(reply, items, bytes_max)
    too_large = refusals.ANSWER_TOO_LARGE
    return CallRefused(reply.call, too_large.code, too_large.text) if answer is None else answer
