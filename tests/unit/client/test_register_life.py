"""The life of a registers' client: calls that run while it is closed, forks, time-outs."""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from unittest.mock import MagicMock

import pytest
from fake_server import asynchronous
from typing_extensions import override

from troth import aio
from troth.client.registers import aio as aio_registers
from troth.client.registers import aio_reach, backlog, fan, leaving, turns
from troth.client.registers.aio_lines import AsyncLine
from troth.client.registers.aio_reach import CALLED_OFF, AsyncReach
from troth.client.registers.backlog import COLLECTED_AT_ONCE, AsyncBacklog
from troth.client.registers.discovery import Discovery
from troth.client.registers.lines import Line, LineLost
from troth.client.registers.patience import COLLECT_WITHIN_S, WITHIN_MAX_S, now_s, pause_s, seconds
from troth.client.registers.reach import Reach
from troth.client.registers.shared import SharedProposer
from troth.client.registers.sync import PaxosClient
from troth.client.registers.turns import CALLS_MAX, AsyncTurns
from troth.core.register import changes
from troth.core.register.acceptor import Acceptor
from troth.core.register.messages import (
    ZERO,
    Accept,
    Accepted,
    Ballot,
    Collect,
    ConfigId,
    Configuration,
    Configure,
    Conflict,
    Describe,
    Described,
    Prepare,
    Read,
    RecordMessage,
    ReplyMessage,
    RequestMessage,
    Seat,
    State,
    founding,
    group_of,
)
from troth.core.register.proposer import Proposer
from troth.core.register.reconfigure import Reconfiguration
from troth.core.register.round import Phase
from troth.core.register.task import Outcome, PreparedBallot, ProposerState, Send
from troth.errors import OutcomeUnknown, Overloaded, Unavailable, UsageError, WrongCluster
from troth.ids import NodeId

SEATS = tuple(Seat(NodeId(number), f"a{number}:1") for number in (1, 2, 3))
CONFIG = founding(group_of(SEATS))
OTHER = founding(group_of(SEATS[:2]))
ADDRESSES = ["a1:1", "a2:1", "a3:1"]
LONG_S = 600.0
"""A call that takes so long is one that hangs."""

NO_TIME_S = sys.float_info.min
"""Above 0, and nothing beside the time of any clock."""


class Acceptors:
    """Three acceptors in this process, in place of connections; `silent`: requests of these kinds are not answered."""

    def __init__(self) -> None:
        self.acceptors = {seat.acceptor: Acceptor(seat.acceptor) for seat in SEATS}
        for acceptor in self.acceptors.values():
            acceptor.on_request(Configure(CONFIG))
        self.silent: tuple[type, ...] = ()
        self.stuck: tuple[type, ...] = ()
        """Requests of these kinds find no room and never leave."""
        self.away: set[NodeId] = set()
        """Acceptors that answer nothing."""
        self.lost: set[NodeId] = set()
        """Acceptors that no connection can be made to."""
        self.broken: set[NodeId] = set()
        """Acceptors whose connections break when a request has left."""
        self.looked = threading.Event()
        """One of them was asked what it holds."""
        self.asked = threading.Event()
        """Somebody waits for an answer that does not come."""
        self.asked_aio = asyncio.Event()
        self.unanswered: list[Future[ReplyMessage]] = []

    def ask(self, reach: Reach, send: Send, config: Configuration, deadline: float) -> "Future[ReplyMessage]":
        answer: Future[ReplyMessage] = Future()
        if reach.closed:
            answer.set_exception(LineLost("the client is closed", sent=False))
        elif isinstance(send.request, self.stuck):
            pass
        elif send.to in self.lost:
            answer.set_exception(LineLost("refused", sent=False))
        elif send.to in self.broken:
            answer.set_exception(LineLost("the connection broke"))
        elif self._is_unanswered(send):
            if isinstance(send.request, self.silent):
                answer.set_running_or_notify_cancel()
            self.unanswered.append(answer)
            self.asked.set()
        else:
            answer.set_result(self.acceptors[send.to].on_request(send.request)[0])
        return answer

    async def ask_aio(self, reach: AsyncReach, send: Send, config: Configuration) -> ReplyMessage:
        if isinstance(send.request, self.stuck):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                raise LineLost("no room", sent=False) from None
        if send.to in self.lost:
            raise LineLost("refused", sent=False)
        if send.to in self.broken:
            raise LineLost("the connection broke")
        if self._is_unanswered(send):
            self.asked_aio.set()
            await asyncio.get_running_loop().create_future()
        return self.acceptors[send.to].on_request(send.request)[0]

    def _is_unanswered(self, send: Send) -> bool:
        if send.to in self.away and isinstance(send.request, Read):
            self.looked.set()
        return isinstance(send.request, self.silent) or send.to in self.away

    def let_go(self) -> None:
        for answer in self.unanswered:
            if not answer.cancelled():
                answer.set_exception(LineLost("the connection broke"))


@pytest.fixture
def acceptors(monkeypatch: pytest.MonkeyPatch) -> Acceptors:
    made = Acceptors()

    async def find(reach: AsyncReach, deadline: float) -> Configuration:
        return CONFIG

    async def ask(reach: AsyncReach, send: Send, config: Configuration) -> ReplyMessage:
        return await made.ask_aio(reach, send, config)

    monkeypatch.setattr(Reach, "find", lambda reach, deadline: CONFIG)
    monkeypatch.setattr(Reach, "ask", lambda *given: made.ask(*given))
    monkeypatch.setattr(AsyncReach, "find", find)
    monkeypatch.setattr(AsyncReach, "ask", ask)
    return made


# ---- closing while calls run ----


def test_a_call_that_runs_while_the_client_is_closed_ends(acceptors: Acceptors) -> None:
    """Its accept may have been done, so it is unknown; and nobody waits for the rest of the time-out."""
    registers = PaxosClient(ADDRESSES, timeout=LONG_S)
    registers.put("k", "1")
    acceptors.silent = (Accept,)
    errors: list[BaseException] = []

    def put() -> None:
        try:
            registers.put("k", "2")
        except OutcomeUnknown as error:
            errors.append(error)

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    assert acceptors.asked.wait(30)
    registers.close()
    acceptors.let_go()
    thread.join(30)
    assert len(errors) == 1 and "closed during the call" in str(errors[0])


def test_a_client_is_not_closed_between_a_look_at_it_and_what_depends_on_that(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion that has succeeded hands in its collection under the lock; the executor must not end in between."""
    registers = PaxosClient(ADDRESSES)
    owned: list[bool] = []
    close = Reach.close

    def closes(reach: Reach) -> None:
        owned.append(registers._lock._is_owned())  # type: ignore[attr-defined]
        close(reach)

    monkeypatch.setattr(Reach, "close", closes)
    assert registers.put("k", "1").changed and registers.delete("k").changed
    registers.close()
    registers._backlog.add(b"k", registers._collect)
    assert owned == [True]


@asynchronous
async def test_an_asyncio_call_that_runs_while_the_client_is_closed_ends(acceptors: Acceptors) -> None:
    registers = await aio.PaxosClient(ADDRESSES, timeout=LONG_S).open()
    await registers.put("k", "1")
    acceptors.silent = (Accept,)
    call = asyncio.create_task(registers.put("k", "2"))
    await acceptors.asked_aio.wait()
    await registers.close()
    with pytest.raises(OutcomeUnknown, match="closed during the call"):
        await asyncio.wait_for(call, 30)
    with pytest.raises(UsageError, match="closed"):
        await registers.get("k")


@asynchronous
async def test_an_asyncio_call_that_waits_for_its_turn_when_the_client_is_closed_has_not_happened(
    acceptors: Acceptors,
) -> None:
    """As the blocking client's, and as one whose time is over."""
    registers = await aio.PaxosClient(ADDRESSES, timeout=LONG_S).open()
    acceptors.silent = (Prepare,)
    calls = [asyncio.create_task(registers.put("k", value)) for value in "12"]
    await acceptors.asked_aio.wait()
    await registers.close()
    for call in calls:
        with pytest.raises(Unavailable, match="closed during the call"):
            await asyncio.wait_for(call, 30)


def test_what_nobody_has_closed_is_closed_when_the_program_ends(acceptors: Acceptors) -> None:
    """Threads of its lines may wait for an acceptor that hangs, and the interpreter would wait for them."""
    registers = PaxosClient(ADDRESSES)
    line = Line("a1:1", None)
    leaving._close_all()
    with pytest.raises(UsageError, match="closed"):
        registers.get("k")
    with pytest.raises(LineLost, match="closed"):
        line.ask(Describe(), time.monotonic() + LONG_S).result(30)


@asynchronous
async def test_an_asyncio_client_is_not_opened_again_once_it_is_closed(acceptors: Acceptors) -> None:
    registers = aio.PaxosClient(ADDRESSES)
    async with registers:
        pass
    with pytest.raises(UsageError, match="closed"):
        await registers.open()


def test_an_asyncio_client_belongs_to_the_event_loop_that_opened_it(acceptors: Acceptors) -> None:
    """Its connections do, so calls in another one would hear of nothing until their time is over."""
    registers = asyncio.run(aio.PaxosClient(ADDRESSES).open())

    async def calls() -> None:
        for call in (registers.get("k"), registers.put("k", "v"), registers.keys(), registers.acceptors()):
            with pytest.raises(UsageError, match="another event loop"):
                await call
        await registers.close()

    asyncio.run(calls())


# ---- forks ----


def test_a_forked_child_is_refused_though_a_thread_held_the_clients_lock(acceptors: Acceptors) -> None:
    """That thread does not exist in the child, so the lock would never be had."""
    registers = PaxosClient(ADDRESSES)
    registers._reach._pid = os.getpid() + 1
    held = [registers._lock, registers._turns._queues._lock, registers._reach._lock]
    refused: list[str] = []
    calls: tuple[Callable[[], object], ...] = (
        lambda: registers.get("k"),
        lambda: registers.put("k", "1"),
        lambda: registers.keys(),
        lambda: registers.collect(),
        lambda: registers.acceptors(),
        lambda: registers.configuration,
        lambda: registers.set_acceptors(ADDRESSES),
    )

    def child() -> None:
        for call in calls:
            with pytest.raises(UsageError, match="before a fork") as caught:
                call()
            refused.append(str(caught.value))

    for lock in held:
        lock.acquire()
    try:
        thread = threading.Thread(target=child, daemon=True)
        thread.start()
        thread.join(30)
        assert len(refused) == len(calls)
    finally:
        for lock in held:
            lock.release()


@asynchronous
async def test_a_forked_child_neither_uses_the_parents_ballots_nor_its_connections(acceptors: Acceptors) -> None:
    """Two processes with one proposer's ballots would propose two values at one of them."""
    registers = await aio.PaxosClient(ADDRESSES).open()
    await registers.put("k", "1")
    line = registers._reach._lines["a1:1"] = AsyncLine("a1:1", None)
    opening = line._opening = asyncio.create_task(asyncio.sleep(LONG_S))  # type: ignore[assignment]
    registers._reach._pid = os.getpid() + 1
    for call in (
        registers.put("k", "2"),
        registers.get("k"),
        registers.keys(),
        registers.set_acceptors(ADDRESSES),
    ):
        with pytest.raises(UsageError, match="before a fork"):
            await call
    await registers.close()
    await asyncio.sleep(0)
    assert not opening.cancelled(), "the connections are the parent's"
    registers._reach._pid = os.getpid()
    await registers.close()
    await asyncio.wait([opening])
    assert opening.cancelled()


@asynchronous
async def test_an_asyncio_client_made_before_a_fork_may_be_opened_behind_it(acceptors: Acceptors) -> None:
    registers = aio.PaxosClient(ADDRESSES)
    registers._reach._pid = os.getpid() + 1
    async with registers:
        assert (await registers.put("k", "1")).changed


# ---- acceptors of two sets ----


MEANT = ["a1:1", "a2:1", "a9:1"]
"""The third is mistyped: an acceptor of another set is there."""


def who(address: str) -> Described:
    number = int(address[1])
    return Described(NodeId(number), OTHER if number == 9 else CONFIG, 0, 0, 0, ZERO)


def test_a_mistyped_address_ends_the_change_of_acceptors_and_nothing_else(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(line: Line, request: object, deadline: float) -> "Future[ReplyMessage]":
        answer: Future[ReplyMessage] = Future()
        answer.set_result(who(line.address))
        return answer

    monkeypatch.setattr(Line, "ask", ask)
    with PaxosClient(ADDRESSES) as registers:
        with pytest.raises(WrongCluster, match="a9:1 belongs to another set"):
            registers.set_acceptors(MEANT)
        assert registers.put("k", "1").changed
        assert registers.configuration == CONFIG


@asynchronous
async def test_a_mistyped_address_ends_the_asyncio_change_of_acceptors_and_nothing_else(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(line: AsyncLine, request: object) -> ReplyMessage:
        return who(line.address)

    monkeypatch.setattr(AsyncLine, "ask", ask)
    async with aio.PaxosClient(ADDRESSES) as registers:
        with pytest.raises(WrongCluster, match="a9:1 belongs to another set"):
            await registers.set_acceptors(MEANT)
        assert (await registers.put("k", "1")).changed
        assert registers.configuration == CONFIG


def test_an_acceptor_of_another_set_at_an_address_that_became_free_does_no_harm(acceptors: Acceptors) -> None:
    """Its new process is asked who it is; a quorum of ours answers as before."""
    with PaxosClient(ADDRESSES) as registers:
        for address in ("a1:1", "a2:1"):
            registers._reach._learn(address, who(address))
        acceptors.away = {NodeId(3)}
        registers._reach._learn("a3:1", who("a9:1"))
        assert registers.put("k", "1").changed


# ---- threads that share a client ----


def test_a_slow_change_function_keeps_no_other_thread_from_its_registers(acceptors: Acceptors) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slow(held: bytes | None) -> str:
        begun.set()
        assert may_end.wait(60)
        return "slow"

    with PaxosClient(ADDRESSES) as registers, ThreadPoolExecutor(2) as pool:
        changing = pool.submit(registers.change, "a", slow)
        assert begun.wait(30)
        try:
            assert pool.submit(registers.put, "b", "2").result(10).changed
            assert pool.submit(registers.get, "a").result(10).value is None
        finally:
            may_end.set()
        assert changing.result(30).value == b"slow"


def test_all_that_tasks_of_threads_share_is_taken_under_the_lock() -> None:
    """A method that is added to `ProposerState` and left out here would lose ballots, or use one twice."""
    lock = MagicMock()
    proposer = SharedProposer(1, CONFIG, lock)
    steps: dict[str, Callable[[], object]] = {
        "new_ballot": lambda: proposer.new_ballot(),
        "new_stamp": lambda: proposer.new_stamp(),
        "observe": lambda: proposer.observe(ZERO),
        "courtesy": lambda: proposer.courtesy(2),
        "met": lambda: proposer.met(2, served=False),
        "adopt": lambda: proposer.adopt(CONFIG),
        "take_prepared": lambda: proposer.take_prepared(b"k"),
        "remember": lambda: proposer.remember(b"k", PreparedBallot(OTHER.id, ZERO, State(None, 0, ZERO, ZERO))),
    }
    assert set(steps) == {name for name, each in vars(ProposerState).items() if callable(each) and name[0] != "_"}
    for name, step in steps.items():
        step()
        assert lock.__enter__.call_count == 1, name
        lock.reset_mock()


def test_a_ballot_kept_in_another_configuration_than_the_changes_own_is_not_used() -> None:
    """Another thread may learn of a newer one between the two looks: its acceptors promised, the older ones did not."""
    newer = ConfigId(CONFIG.id.cluster, 2)

    class Overtaken(Proposer):
        @override
        def take_prepared(self, key: bytes) -> PreparedBallot | None:
            return PreparedBallot(newer, self.new_ballot(), State(b"v", 1, ZERO, ZERO))

    change = Overtaken(1, CONFIG).change(b"k", changes.put(b"w"))
    assert change.phase is Phase.PREPARING


# ---- errors say why ----


def test_a_call_whose_time_is_over_says_what_its_connections_complain_of(acceptors: Acceptors) -> None:
    acceptors.silent = (Prepare, Read)
    with PaxosClient(ADDRESSES) as registers:
        registers._reach.line("a2:1").complaint = "a2:1: its directory was emptied"
        for call in (registers.get, lambda key, within_s: registers.put(key, "v", within_s=within_s)):
            with pytest.raises(Unavailable, match="a2:1: its directory was emptied"):
                call("k", within_s=0.01)


@asynchronous
async def test_an_asyncio_call_whose_time_is_over_says_what_its_connections_complain_of(
    acceptors: Acceptors,
) -> None:
    acceptors.silent = (Read,)
    async with aio.PaxosClient(ADDRESSES) as registers:
        registers._reach.line("a2:1").complaint = "a2:1: its directory was emptied"
        with pytest.raises(Unavailable, match="a2:1: its directory was emptied"):
            await registers.get("k", within_s=0.01)


def test_a_call_that_needs_all_names_the_acceptor_that_is_gone(acceptors: Acceptors) -> None:
    """It ends by itself, as soon as one is silent, and not because its time is over."""
    with PaxosClient(ADDRESSES, timeout=LONG_S, collect=False) as registers:
        registers._reach.line("a2:1").complaint = "a2:1: refused"
        acceptors.lost = {NodeId(2)}
        for key in (None, "k"):
            with pytest.raises(Unavailable, match=r"not every acceptor answers.*; a2:1: refused"):
                registers.collect(key)


@asynchronous
async def test_an_asyncio_call_that_needs_all_names_the_acceptor_that_is_gone(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S, collect=False) as registers:
        registers._reach.line("a2:1").complaint = "a2:1: refused"
        acceptors.lost = {NodeId(2)}
        for key in (None, "k"):
            with pytest.raises(Unavailable, match=r"not every acceptor answers.*; a2:1: refused"):
                await registers.collect(key)


# ---- more calls at once than there are places ----


@asynchronous
async def test_an_asyncio_call_without_a_place_for_all_its_time_is_told_so(acceptors: Acceptors) -> None:
    acceptors.silent = (Prepare,)
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        calls = [asyncio.create_task(registers.put(f"k{number}", "v")) for number in range(CALLS_MAX)]
        await acceptors.asked_aio.wait()
        with pytest.raises(Overloaded, match="calls of this client"):
            await registers.get("k", within_s=0.01)
        calls[0].cancel()
        assert (await registers.get("k")).value is None
    await asyncio.wait(calls)


def test_a_call_without_a_place_for_all_its_time_is_told_so(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "CALLS_MAX", 1)

    def refused() -> None:
        with pytest.raises(Overloaded, match="calls of this client"):
            registers.get("k", within_s=0.01)

    with PaxosClient(ADDRESSES) as registers:
        registers._places.run(0.0, refused)
        assert registers.get("k").value is None


# ---- functions that raise, and time-outs ----


class Stop(BaseException):
    """What no handler of errors takes."""


def stops(held: bytes | None) -> bytes | None:
    raise Stop


@asynchronous
async def test_whatever_a_change_function_raises_ends_the_asyncio_call(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        with pytest.raises(Stop):
            await asyncio.wait_for(registers.change("k", stops), 30)
        assert (await registers.put("k", "1")).changed, "the key is free again"


def test_whatever_a_change_function_raises_ends_the_call(acceptors: Acceptors) -> None:
    with PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        with pytest.raises(Stop):
            registers.change("k", stops)
        assert registers.put("k", "1").changed


def test_a_time_out_is_a_number_and_for_ever_is_a_long_time(acceptors: Acceptors) -> None:
    assert seconds(3.5) == 3.5
    assert seconds(float("inf")) == WITHIN_MAX_S
    for wrong in (float("nan"), 0, -1.0, "1", None):
        with pytest.raises(UsageError, match="number of seconds"):
            seconds(wrong)
        with pytest.raises(UsageError, match="number of seconds"):
            PaxosClient(ADDRESSES, timeout=wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="number of seconds"):
            PaxosClient.local("nowhere", timeout=wrong)  # type: ignore[arg-type]
    with PaxosClient(ADDRESSES, timeout=float("inf")) as registers:
        assert registers.put("k", "1").changed
        with pytest.raises(UsageError, match="number of seconds"):
            registers.put("k", "2", within_s=float("nan"))


@asynchronous
async def test_an_asyncio_time_out_is_a_number_and_for_ever_is_a_long_time(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES, timeout=float("inf")) as registers:
        assert (await registers.put("k", "1")).changed
        with pytest.raises(UsageError, match="number of seconds"):
            await registers.put("k", "2", within_s=float("nan"))


# ---- what has not left ----


def test_a_change_whose_time_is_over_before_it_leaves_is_not_applied(acceptors: Acceptors) -> None:
    """With a ballot kept its accept is the first thing to leave; all the same nothing can have happened."""
    with PaxosClient(ADDRESSES) as registers:
        registers.put("k", "1")
        with pytest.raises(Unavailable):
            registers.put("k", "2", within_s=NO_TIME_S)
        assert registers.get("k").value == b"1"


@asynchronous
async def test_an_asyncio_change_whose_time_is_over_before_it_leaves_is_not_applied(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES) as registers:
        await registers.put("k", "1")
        with pytest.raises(Unavailable):
            await registers.put("k", "2", within_s=NO_TIME_S)
        assert (await registers.get("k")).value == b"1"


def test_a_change_that_has_found_no_room_on_its_way_is_not_applied(acceptors: Acceptors) -> None:
    with PaxosClient(ADDRESSES) as registers:
        registers.put("k", "1")
        acceptors.stuck = (Accept,)
        with pytest.raises(Unavailable):
            registers.put("k", "2", within_s=0.01)


@asynchronous
async def test_an_asyncio_change_that_has_found_no_room_on_its_way_is_not_applied(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES) as registers:
        await registers.put("k", "1")
        acceptors.stuck = (Accept,)
        with pytest.raises(Unavailable):
            await registers.put("k", "2", within_s=0.01)


@asynchronous
async def test_an_asyncio_request_that_is_called_off_says_whether_it_has_left() -> None:
    reach = AsyncReach(ADDRESSES, None, Discovery(ADDRESSES, prepare=0, accept=0, found=None))
    asked = asyncio.Event()
    line, leaves = MagicMock(address="a1:1"), asyncio.get_running_loop().create_future()

    async def ready(*, expect: int) -> object:
        asked.set()
        return await leaves

    async def answer(connection: object, request: object) -> None:
        asked.set()
        await asyncio.get_running_loop().create_future()

    line.ready, line.answer = ready, answer
    reach._lines["a1:1"] = line
    reach._discovery.addresses[NodeId(1)] = "a1:1"
    send = Send(NodeId(1), Describe(), 1)
    waits = asyncio.create_task(reach.ask(send, CONFIG))
    await asked.wait()
    waits.cancel(CALLED_OFF)
    with pytest.raises(LineLost) as caught:
        await waits
    assert not caught.value.sent
    asked.clear()
    leaves = asyncio.get_running_loop().create_future()
    ends = asyncio.create_task(reach.ask(send, CONFIG))
    await asked.wait()
    ends.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ends  # asyncio.run would report any other error at the end of its loop
    leaves = asyncio.get_running_loop().create_future()
    leaves.set_result(object())
    asked.clear()
    left = asyncio.create_task(reach.ask(send, CONFIG))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left


# ---- turns ----


@asynchronous
async def test_a_key_is_held_by_one_task_and_forgotten_when_none_wants_it() -> None:
    keys = AsyncTurns()
    async with keys.of(b"k", now_s() + LONG_S):
        with pytest.raises(Unavailable, match="used up the time"):
            async with keys.of(b"k", now_s()):
                pass
        assert set(keys._locks) == {b"k"}
    assert not keys._locks


# ---- deletions while an acceptor is away ----


def test_a_collection_waits_for_its_clients_own_change_of_the_key(acceptors: Acceptors) -> None:
    """They would only refuse each other, and it would end as if others were changing the key."""
    with PaxosClient(ADDRESSES, collect=False) as registers, ThreadPoolExecutor(1) as pool:
        registers.put("k", "1")
        registers.delete("k")

        def change() -> "Future[int]":
            collecting = pool.submit(registers.collect, "k")
            with pytest.raises(TimeoutError):
                collecting.result(0.05)
            return collecting

        assert registers._turns.run(b"k", 0.0, change).result(30) == 1


@asynchronous
async def test_an_asyncio_collection_waits_for_its_clients_own_change_of_the_key(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES, collect=False) as registers:
        await registers.put("k", "1")
        await registers.delete("k")
        async with registers._turns.of(b"k", now_s() + 1.0):
            collecting = asyncio.create_task(registers.collect("k"))
            await asyncio.wait([collecting], timeout=0.05)
            assert not collecting.done()
        assert await collecting == 1


def test_a_change_behind_a_deletion_waits_for_no_acceptor_that_is_away(acceptors: Acceptors) -> None:
    """The collection of the tombstone does; but it holds the key's turn only when all acceptors are there."""
    acceptors.away = {NodeId(3)}
    with PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        registers.put("k", "1")
        assert registers.delete("k").changed
        assert acceptors.looked.wait(30)
        assert registers.put("k", "2", within_s=COLLECT_WITHIN_S / 2).changed
        acceptors.let_go()


@asynchronous
async def test_an_asyncio_change_behind_a_deletion_waits_for_no_acceptor_that_is_away(
    acceptors: Acceptors,
) -> None:
    acceptors.away = {NodeId(3)}
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        await registers.put("k", "1")
        assert (await registers.delete("k")).changed
        assert await asyncio.to_thread(acceptors.looked.wait, 30)
        assert (await registers.put("k", "2", within_s=COLLECT_WITHIN_S / 2)).changed


@asynchronous
async def test_asyncio_collects_a_few_keys_at_a_time_and_in_the_end_all(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take half a second once it is begun: many at once would take longer together, and all end half-way. One
    that fails makes room for the next."""
    deleted, busy, collected = asyncio.Event(), asyncio.Event(), asyncio.Event()
    collecting: set[bytes] = set()

    async def ask(reach: AsyncReach, send: Send, config: Configuration) -> ReplyMessage:
        if isinstance(send.request, Collect):
            collecting.add(send.request.key)
            if len(collecting) >= COLLECTED_AT_ONCE:
                busy.set()
            await deleted.wait()
        reply = await acceptors.ask_aio(reach, send, config)
        if not any(acceptor.slots for acceptor in acceptors.acceptors.values()):
            collected.set()
        return reply

    collect = aio.PaxosClient._collect

    async def fails_at_first(registers: aio.PaxosClient, key: bytes) -> None:
        await collect(registers, key)
        if len(failed) < COLLECTED_AT_ONCE:
            failed.add(key)
            raise Unavailable("what came of it is not known")

    failed: set[bytes] = set()
    monkeypatch.setattr(AsyncReach, "ask", ask)
    monkeypatch.setattr(aio.PaxosClient, "_collect", fails_at_first)
    monkeypatch.setattr(aio_registers, "COLLECT_HOLDS_S", LONG_S)
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S) as registers, asyncio.timeout(30):
        keys = [f"k{number}" for number in range(5 * COLLECTED_AT_ONCE)]
        await asyncio.gather(*(registers.put(key, "1") for key in keys))
        await asyncio.gather(*(registers.delete(key) for key in keys))
        await busy.wait()
        await registers.get("k0")  # time for more of them to begin, if they did
        assert len(collecting) == COLLECTED_AT_ONCE
        collected.clear()
        deleted.set()
        await collected.wait()


@asynchronous
async def test_collections_that_take_too_long_make_room_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that holds up its loop, say, leaves them no time."""
    for name in ("DESCRIBE_WITHIN_S", "COLLECT_WITHIN_S"):
        monkeypatch.setattr(aio_reach, name, 0.0)
    reach = AsyncReach(ADDRESSES, None, Discovery(ADDRESSES, prepare=0, accept=0, found=None))
    keys = {b"%d" % number for number in range(3 * COLLECTED_AT_ONCE)}
    begun: set[bytes] = set()
    all_begun = asyncio.Event()

    async def collect(key: bytes) -> None:
        begun.add(key)
        if begun == keys:
            all_begun.set()
        await asyncio.sleep(LONG_S)

    backlog = AsyncBacklog(reach, collect)
    for key in keys:
        backlog.add(key)
    async with asyncio.timeout(30):
        await all_begun.wait()


@asynchronous
async def test_nothing_is_collected_for_an_asyncio_client_that_is_closed(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those under way are called off, and no others are begun in their place: its loop may be about to end."""
    acceptors.silent = (Collect,)
    registers = await aio.PaxosClient(ADDRESSES, timeout=LONG_S).open()
    for number in range(2 * COLLECTED_AT_ONCE):
        await registers.put(f"k{number}", "1")
        await registers.delete(f"k{number}")
    await acceptors.asked_aio.wait()
    await registers.close()
    await asyncio.wait(registers._reach._background)
    assert len(registers._backlog._waiting) == COLLECTED_AT_ONCE


# ---- what one acceptor has missed ----


def delete_while_away(acceptors: Acceptors) -> None:
    """`dead` is deleted and `used` is written and deleted, and acceptor 3 has heard of neither deletion."""
    with PaxosClient(ADDRESSES, timeout=LONG_S, collect=False) as registers:
        for key in ("dead", "live", "used"):
            registers.put(key, "1")
        acceptors.away = {NodeId(3)}
        registers.delete("dead")
        registers.delete("used")
    acceptors.away = set()


def test_a_key_whose_deletion_one_acceptor_has_missed_is_not_listed_and_is_collected(acceptors: Acceptors) -> None:
    delete_while_away(acceptors)
    with PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        for away in (1, 2):
            acceptors.away = {NodeId(away)}
            assert registers.keys() == [b"live"]
        acceptors.away = set()
        assert registers.collect("live") == 0
        assert registers.collect() == 2
        assert registers.collect() == 0
    assert all(list(acceptor.slots) == [b"live"] for acceptor in acceptors.acceptors.values())


def in_use(acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever prepares `dead` finds that somebody else has prepared it at a higher ballot."""
    answer = Acceptor.on_request

    def on_request(acceptor: Acceptor, request: RequestMessage) -> tuple[ReplyMessage, RecordMessage | None]:
        if isinstance(request, Prepare) and request.key == b"dead":
            return Conflict(Ballot(request.ballot.round, request.ballot.client + 1)), None
        return answer(acceptor, request)

    monkeypatch.setattr(Acceptor, "on_request", on_request)


def test_a_key_in_use_does_not_keep_the_others_from_being_collected(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete_while_away(acceptors)
    in_use(acceptors, monkeypatch)
    with PaxosClient(ADDRESSES, timeout=LONG_S) as registers, pytest.raises(Unavailable, match="dead"):
        registers.collect()
    assert list(acceptors.acceptors[NodeId(1)].slots) == [b"dead", b"live"]


@asynchronous
async def test_asyncio_collects_what_it_can_and_counts_what_was_removed(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete_while_away(acceptors)
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        with monkeypatch.context() as patch:
            in_use(acceptors, patch)
            with pytest.raises(Unavailable, match="dead"):
                await registers.collect()
        assert list(acceptors.acceptors[NodeId(1)].slots) == [b"dead", b"live"]
        assert await registers.collect() == 1


# ---- an acceptor that leaves ----


TWO = {seat.acceptor: seat.address for seat in SEATS[:2]}


def test_who_leaves_the_set_is_told_though_nobody_waits_for_it(acceptors: Acceptors) -> None:
    """Its answer comes late; the telling is not called off when the change is complete, nor before it has begun."""
    acceptors.away = {NodeId(3)}
    with PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        task = registers._begin(partial(Reconfiguration, seats=TWO))
        assert registers._fan.run(task, time.monotonic() + LONG_S).error is None
        assert registers.configuration.id.epoch == 3
        (told,) = [answer for answer in acceptors.unanswered if not answer.cancelled()]
        told.set_exception(LineLost("the connection broke"))


@asynchronous
async def test_asyncio_tells_who_leaves_the_set_though_nobody_waits_for_it(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = asyncio.Event()

    async def ask(reach: AsyncReach, send: Send, config: Configuration) -> ReplyMessage:
        if send.to == 3:
            await slow.wait()
        return await acceptors.ask_aio(reach, send, config)

    monkeypatch.setattr(AsyncReach, "ask", ask)
    leaving = acceptors.acceptors[NodeId(3)]
    async with aio.PaxosClient(ADDRESSES, timeout=LONG_S) as registers:
        assert (
            await registers._fan.run(Reconfiguration(registers._proposer, TWO), LONG_S + now_s())
        ).error is None
        assert leaving.config == CONFIG
        slow.set()
        for _ in range(10):
            await asyncio.sleep(0)
        assert leaving.config is not None and leaving.config.id.epoch == 3


# ---- sizes of quorums ----


@pytest.mark.parametrize("size", [2.0, True, "2", -1, None])
def test_sizes_that_are_none_are_refused_at_the_door(size: int, acceptors: Acceptors) -> None:
    for client in (PaxosClient, aio.PaxosClient):
        for sizes in ({"prepare": size}, {"accept": size}):
            with pytest.raises(UsageError, match="is a number of acceptors"):
                client(ADDRESSES, **sizes)  # type: ignore[arg-type]


def test_sizes_that_are_none_change_no_set(acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reach, "insist", lambda reach, address, deadline: who(address))
    with PaxosClient(ADDRESSES) as registers:
        with pytest.raises(UsageError, match="is a number of acceptors"):
            registers.set_acceptors(ADDRESSES, prepare=3.0, accept=1)  # type: ignore[arg-type]
        assert registers.set_acceptors(ADDRESSES, prepare=3, accept=1).groups[0].prepare == 3


@asynchronous
async def test_sizes_that_are_none_change_no_set_by_asyncio_either(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def insist(reach: AsyncReach, address: str, deadline: float) -> Described:
        return who(address)

    monkeypatch.setattr(AsyncReach, "insist", insist)
    async with aio.PaxosClient(ADDRESSES) as registers:
        with pytest.raises(UsageError, match="is a number of acceptors"):
            await registers.set_acceptors(ADDRESSES, prepare=True, accept=3)
        assert (await registers.set_acceptors(ADDRESSES, prepare=1, accept=3)).groups[0].prepare == 1


# ---- what has not left, and who waits for whom ----


def test_a_change_of_which_no_request_has_left_is_not_applied(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a kept ballot its first request is the accept; nobody is there to take it. Two that are lost are enough for a
    pause, in which the time ends before the third is looked at."""
    monkeypatch.setattr(fan, "pause_s", lambda tries, chance: LONG_S)
    with PaxosClient(ADDRESSES) as registers:
        registers.put("k", "1")
        acceptors.lost = set(acceptors.acceptors)
        with pytest.raises(Unavailable):
            registers.put("k", "2", within_s=0.02)


@pytest.mark.parametrize("broken", [True, False])
def test_a_change_of_which_a_request_has_left_is_in_doubt_though_nobody_looks_what_came_of_it(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """Two have not left, so there is a pause. In it the third one is answered, or its connection breaks."""

    def paused_s(tries: int, chance: float) -> float:
        if broken:
            acceptors.let_go()
        else:
            acceptors.unanswered[0].set_result(Accepted())
        return LONG_S

    monkeypatch.setattr(fan, "pause_s", paused_s)
    with PaxosClient(ADDRESSES) as registers:
        registers.put("k", "1")
        acceptors.lost = {NodeId(1), NodeId(2)}
        acceptors.away = {NodeId(3)}
        with pytest.raises(OutcomeUnknown):
            registers.put("k", "2", within_s=0.02)
        assert acceptors.unanswered[0].done()


def test_a_change_whose_connections_break_is_in_doubt(acceptors: Acceptors) -> None:
    with PaxosClient(ADDRESSES) as registers:
        registers.put("k", "1")
        acceptors.broken = set(acceptors.acceptors)
        with pytest.raises(OutcomeUnknown):
            registers.put("k", "2", within_s=0.02)


@asynchronous
async def test_an_asyncio_change_whose_connections_break_is_in_doubt(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES) as registers:
        await registers.put("k", "1")
        acceptors.broken = set(acceptors.acceptors)
        with pytest.raises(OutcomeUnknown):
            await registers.put("k", "2", within_s=0.02)


@asynchronous
async def test_an_asyncio_change_of_which_no_request_has_left_is_not_applied(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES) as registers:
        await registers.put("k", "1")
        acceptors.lost = set(acceptors.acceptors)
        with pytest.raises(Unavailable):
            await registers.put("k", "2", within_s=0.02)


def test_a_change_waits_for_its_turn(acceptors: Acceptors) -> None:
    """Two of one client would only refuse each other."""

    def refused() -> None:
        with pytest.raises(Unavailable, match="used up the time"):
            registers.put("k", "1", within_s=0.01)

    with PaxosClient(ADDRESSES) as registers:
        registers._turns.run(b"k", 0.0, refused)
        assert registers.put("k", "1").version == 1


@asynchronous
async def test_an_asyncio_change_waits_for_its_turn(acceptors: Acceptors) -> None:
    async with aio.PaxosClient(ADDRESSES) as registers:
        async with registers._turns.of(b"k", now_s() + 1.0):
            with pytest.raises(Unavailable, match="used up the time"):
                await registers.put("k", "1", within_s=0.01)
        assert (await registers.put("k", "1")).version == 1


def test_a_collection_in_which_an_acceptor_falls_silent_gives_its_turn_back_soon(acceptors: Acceptors) -> None:
    with PaxosClient(ADDRESSES, collect=False) as registers:
        registers.put("k", "1")
        registers.delete("k")
        acceptors.silent = (Collect,)
        begin = time.monotonic()
        outcome = registers._collected(b"k", begin + 10, holds_s=0.01)
        assert isinstance(outcome.error, Unavailable) and time.monotonic() - begin < 5
        acceptors.let_go()


@asynchronous
async def test_an_asyncio_collection_in_which_an_acceptor_falls_silent_gives_its_turn_back_soon(
    acceptors: Acceptors,
) -> None:
    async with aio.PaxosClient(ADDRESSES, collect=False) as registers:
        await registers.put("k", "1")
        await registers.delete("k")
        acceptors.silent = (Collect,)
        begin = now_s()
        outcome = await registers._collected(b"k", begin + 10, holds_s=0.01)
        assert isinstance(outcome.error, Unavailable) and now_s() - begin < 5


# ---- pauses ----


class Refused:
    """A task that pauses until it is resumed."""

    config = CONFIG
    has_sends = False
    outcome: Outcome | None = None
    pause = 8

    def take(self) -> list[Send]:
        return []

    def resume(self) -> None:
        self.outcome = Outcome()


@pytest.mark.parametrize(("chance", "left_s"), [(0.25, LONG_S), (0.75, LONG_S), (0.75, 0.05)])
def test_a_pause_is_drawn_and_ends_with_the_call(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch, chance: float, left_s: float
) -> None:
    """Proposers that duel must come back at different moments."""
    slept: list[float] = []
    with PaxosClient(ADDRESSES) as registers:
        monkeypatch.setattr(registers._fan, "_chance", MagicMock(random=lambda: chance))
        monkeypatch.setattr(time, "sleep", slept.append)
        registers._fan.run(Refused(), time.monotonic() + left_s)  # type: ignore[arg-type]
        monkeypatch.undo()
    assert all(each < left_s + 0.01 for each in slept), slept
    assert left_s < 1 or slept == [pause_s(Refused.pause, chance)]


@asynchronous
@pytest.mark.parametrize(("chance", "left_s"), [(0.25, LONG_S), (0.75, LONG_S), (0.75, 0.05)])
async def test_an_asyncio_pause_is_drawn_and_ends_with_the_call(
    acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch, chance: float, left_s: float
) -> None:
    slept: list[float] = []

    async def sleep(for_s: float) -> None:
        slept.append(for_s)

    async with aio.PaxosClient(ADDRESSES) as registers:
        with monkeypatch.context() as patch:
            patch.setattr(registers._fan, "_chance", MagicMock(random=lambda: chance))
            patch.setattr(asyncio, "sleep", sleep)
            await registers._fan.run(Refused(), now_s() + left_s)  # type: ignore[arg-type]
    assert all(each < left_s + 0.01 for each in slept), slept
    assert left_s < 1 or slept == [pause_s(Refused.pause, chance)]


# ---- keys that wait for collection ----


def test_a_key_that_was_collected_is_collected_again(acceptors: Acceptors) -> None:
    collected: list[bytes] = []
    with PaxosClient(ADDRESSES) as registers:
        for key in (b"k", b"k", b"k"):
            registers._backlog.add(key, collected.append)
            is_done = threading.Event()
            registers._backlog.add(b"next", lambda _, is_done=is_done: is_done.set())
            assert is_done.wait(30)
            registers._backlog._collector.submit(lambda: None).result(30)  # type: ignore[union-attr]
    assert collected == [b"k"] * 3


def test_keys_that_wait_for_collection_have_a_bound(acceptors: Acceptors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "COLLECTIONS_MAX", 2)
    collected: list[bytes] = []
    go_on = threading.Event()

    def collect(key: bytes) -> None:
        go_on.wait(30)
        collected.append(key)

    with PaxosClient(ADDRESSES) as registers:
        for key in (b"a", b"b", b"c", b"b"):
            registers._backlog.add(key, collect)
        go_on.set()
        registers._backlog._collector.submit(lambda: None).result(30)  # type: ignore[union-attr]
    assert collected == [b"a", b"b"]
