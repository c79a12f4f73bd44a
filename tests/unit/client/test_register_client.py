"""The registers' clients without acceptors: arguments, finding a set, pauses, bounds, and what is recorded."""

import asyncio
import contextlib
import os
import socket
import ssl
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from unittest.mock import MagicMock

import msgspec
import pytest
from fake_server import asynchronous

import troth
from troth import aio
from troth.client.registers import aio_lines, lines, patience, recorded
from troth.client.registers.aio_lines import AsyncLine
from troth.client.registers.arguments import as_function, as_key, as_swap, as_value, where
from troth.client.registers.backlog import Backlog
from troth.client.registers.discovery import Discovery, give_seat, new_client
from troth.client.registers.lines import Line, LineLost, failure_of
from troth.client.registers.lookup import Lookup
from troth.client.registers.patience import PAUSE_MAX_S, PAUSE_S, REST_MAX_S, REST_S, Rest, pause_s
from troth.client.registers.reach import Reach
from troth.client.registers.replies import RegisterReply, explained, view_of
from troth.client.registers.sync import PaxosClient
from troth.core.register import changes
from troth.core.register.codec import encode_answer
from troth.core.register.messages import (
    ZERO,
    Accepted,
    Ballot,
    ConfigId,
    Describe,
    Described,
    Read,
    Seat,
    State,
    founding,
    group_of,
)
from troth.core.register.proposer import Proposer
from troth.core.register.round import Round
from troth.core.register.states import Attempt
from troth.errors import OutcomeUnknown, RequestTimeout, Unavailable, UsageError, WrongCluster
from troth.ids import ClusterId, NodeId
from troth.runtime.addresses import parse_address
from troth.verify.check import check
from troth.verify.formats.read import read_history
from troth.verify.verdict import Status
from troth.wire.frames import frame
from troth.wire.handshake import VERSION, Welcome, encode_greeting

SEATS = tuple(Seat(NodeId(number), f"a{number}:1") for number in (1, 2, 3))
CONFIG = founding(group_of(SEATS))
OTHER = founding(group_of(SEATS[:2]))
ADDRESSES = ("a1:1", "a2:1", "a3:1")
WELCOME = Welcome(VERSION, ClusterId(0), NodeId(1))


def described(number: int, config: object = None) -> Described:
    return Described(NodeId(number), config, 0, 0, 0, ZERO)  # type: ignore[arg-type]


def test_addresses_are_a_list_a_text_or_a_url() -> None:
    assert where(list(ADDRESSES)).addresses == ADDRESSES
    assert where("a1:1,a2:1,a3:1").addresses == ADDRESSES
    assert where("troth://a1:1,a2:1,a3:1").addresses == ADDRESSES
    assert where(["unix:/tmp/a"]).addresses == ("unix:/tmp/a",)
    for wrong in ([], "", ["h"], "http://h:1", 5, None, [5, 6], b"a1:1"):
        with pytest.raises(UsageError):
            where(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given", [["a1:1", "a2:1", "a1:1"], "a1:1,a1:1", "troth://unix:/a,unix:%2Fa", "troth://a1:1,a1:1/"]
)
def test_an_address_is_given_once(given: str | list[str]) -> None:
    """Three addresses that are two are another set than the caller thinks."""
    with pytest.raises(UsageError, match="given twice"):
        where(given)


def test_one_acceptor_has_one_address_and_one_seat() -> None:
    discovery = Discovery(["a1:1", "b1:1", "a2:1"], prepare=0, accept=0, found=None)
    for address, number in (("a1:1", 1), ("b1:1", 1), ("a2:1", 2)):
        discovery.on_described(address, described(number))
    with pytest.raises(UsageError, match="answers at a1:1 and at b1:1"):
        discovery.settled()
    seats = {NodeId(1): "a1:1"}
    with pytest.raises(UsageError, match="answers at a1:1 and at b1:1"):
        give_seat(seats, "b1:1", described(1, CONFIG), CONFIG)
    give_seat(seats, "a2:1", described(2), CONFIG)
    assert seats == {NodeId(1): "a1:1", NodeId(2): "a2:1"}


@pytest.mark.parametrize("sizes", [(1, 1), (3, 1), (3, 0), (0, 3)])
def test_sizes_of_quorums_that_a_set_does_not_have_are_not_passed_over(sizes: tuple[int, int]) -> None:
    prepare, accept = sizes
    discovery = Discovery(ADDRESSES, prepare=prepare, accept=accept, found=True)
    discovery.on_described("a1:1", described(1, CONFIG))
    with pytest.raises(UsageError, match="a set already, with"):
        discovery.settled()
    same = Discovery(ADDRESSES, prepare=2, accept=0, found=None)
    assert same.settled() is None
    same.on_described("a1:1", described(1, CONFIG))
    assert same.settled() == CONFIG


def test_who_has_founded_a_set_knows_it() -> None:
    first, second = (Discovery(ADDRESSES, prepare=0, accept=0, found=None) for _ in range(2))
    for number in (1, 2, 3):
        first.on_described(f"a{number}:1", described(number))
        second.on_described(f"a{number}:1", described(number, CONFIG))
    assert first.to_establish() == CONFIG
    assert second.to_establish() is None
    assert (first.founded, second.founded) == (True, False)


def test_keys_and_values_are_checked_before_anything_is_sent() -> None:
    assert as_key("k") == b"k"
    for wrong in ("", b"\0k", "k" * 1025, 7):
        with pytest.raises(UsageError):
            as_key(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        as_value(bytes((1 << 20) + 1))
    assert as_swap(None, "v") == (None, b"v") and as_swap("v", None) == (b"v", None)
    with pytest.raises(UsageError, match="use get"):
        as_swap(None, None)
    assert as_function(lambda held: "x")(None) == b"x"
    assert as_function(lambda held: None)(b"v") is None


def test_a_change_takes_a_function_that_need_not_be_awaited() -> None:
    async def never(held: bytes | None) -> bytes | None:
        return held

    for wrong in (b"x", None, never):
        with pytest.raises(UsageError, match="plain function"):
            as_function(wrong)  # type: ignore[arg-type]


def test_keys_and_values_that_are_somebodys_own_bytes_are_sent_as_bytes() -> None:
    class Bytes(bytes):
        pass

    made = as_function(lambda _: Bytes(b"v"))(None)
    given = (as_key(Bytes(b"k")), as_value(Bytes(b"v")), *as_swap(Bytes(b"v"), Bytes(b"w")), made)
    assert given == (b"k", b"v", b"v", b"w", b"v")
    assert {type(each) for each in given} == {bytes}


def test_pauses_grow_have_a_bound_and_may_be_nothing() -> None:
    assert pause_s(1, 0.0) == 0.0
    longest = [pause_s(tries, 1.0) for tries in range(1, 30)]
    assert longest == sorted(longest)
    assert longest[0] <= 2 * PAUSE_S and longest[-1] == PAUSE_MAX_S


def test_rests_grow_have_a_bound_and_begin_anew_when_a_connection_was_made() -> None:
    rest, lengths = Rest(), list[float]()
    for _ in range(20):
        rest.begin(0.0)
        lengths.append(rest.until_s)
    assert lengths[:3] == [REST_S, 2 * REST_S, 4 * REST_S]
    assert lengths[-1] == REST_MAX_S
    rest.end()
    assert rest.until_s == 0.0, "requests go out at once"
    rest.begin(1.0)
    assert rest.until_s == 1.0 + REST_S


def test_proposers_have_ids_of_their_own() -> None:
    drawn = {new_client() for _ in range(100)}
    assert len(drawn) == 100
    assert max(drawn) > 2**60, "nearly 63 bits, which nobody draws twice"


def test_three_blank_acceptors_become_a_set_and_two_only_when_told() -> None:
    discovery = Discovery(ADDRESSES, prepare=0, accept=0, found=None)
    for number in (1, 2):
        discovery.on_described(f"a{number}:1", described(number))
        assert discovery.to_establish() is None
    discovery.on_described("a3:1", described(3))
    assert discovery.to_establish() == CONFIG
    two = Discovery(ADDRESSES[:2], prepare=0, accept=0, found=None)
    told = Discovery(ADDRESSES[:2], prepare=0, accept=0, found=True)
    for each in (two, told):
        for number in (1, 2):
            each.on_described(f"a{number}:1", described(number))
    with pytest.raises(UsageError, match="found=True"):
        two.to_establish()
    assert told.to_establish() == OTHER


def test_acceptors_of_servers_that_came_later_become_a_set_only_when_told() -> None:
    """Their cluster may have had registers, all copies of which went with the servers that left."""
    unasked, told = (Discovery(ADDRESSES, prepare=0, accept=0, found=found) for found in (None, True))
    for each in (unasked, told):
        each.on_described("a1:1", described(1))
        each.on_described("a2:1", described(2))
        each.on_described("a3:1", msgspec.structs.replace(described(3), came_late=True))
    with pytest.raises(UsageError, match=r"a3:1 came later(?s:.*)found=True"):
        unasked.to_establish()
    assert told.to_establish() == CONFIG


def test_an_acceptor_that_is_asked_often_is_remembered_once() -> None:
    """Until the last one is up all are asked, every few milliseconds."""
    discovery = Discovery(ADDRESSES, prepare=0, accept=0, found=None)
    for number in (1, 1, 1, 2, 3):
        discovery.on_described(f"a{number}:1", msgspec.structs.replace(described(number), came_late=number < 3))
    with pytest.raises(UsageError, match=r"set, and a1:1, a2:1 came later"):
        discovery.to_establish()
    for number in (1, 2, 3):
        discovery.on_described(f"a{number}:1", described(number, CONFIG))
    assert not discovery._late and not discovery._blank, "what has become a member since is not a blank one"


def test_an_emptied_acceptor_among_others_founds_nothing() -> None:
    discovery = Discovery(ADDRESSES, prepare=0, accept=0, found=True)
    discovery.on_described("a1:1", described(1, CONFIG))
    discovery.on_described("a2:1", described(77))
    discovery.on_described("a3:1", described(3, CONFIG))
    assert discovery.to_establish() is None
    assert discovery.config == CONFIG


def test_acceptors_of_two_sets_are_an_error() -> None:
    discovery = Discovery(ADDRESSES, prepare=0, accept=0, found=None)
    discovery.on_described("a1:1", described(1, CONFIG))
    discovery.on_described("a3:1", described(3, CONFIG))
    discovery.on_described("a2:1", described(2, OTHER))
    assert discovery.is_enough
    with pytest.raises(WrongCluster, match="found one set anew") as caught:
        discovery.settled()
    assert "the acceptors at a1:1, a3:1 belong to one set" in str(caught.value)
    assert "the acceptor at a2:1 belongs to another" in str(caught.value)
    with pytest.raises(WrongCluster):
        give_seat({}, "a9:1", described(9, OTHER), CONFIG)


def test_a_set_is_found_when_most_of_the_addresses_have_named_it() -> None:
    """Blank acceptors name none: another client, given the same addresses, might hear of another set than this one."""
    discovery = Discovery(ADDRESSES, prepare=0, accept=0, found=None)
    discovery.on_described("a1:1", described(1, CONFIG))
    discovery.on_described("a2:1", described(2))
    assert not discovery.is_enough
    discovery.on_described("a3:1", described(3, CONFIG))
    assert discovery.is_enough and discovery.settled() == CONFIG


def test_half_of_the_addresses_are_not_most_of_them() -> None:
    discovery = Discovery((*ADDRESSES, "a4:1"), prepare=0, accept=0, found=None)
    for number, is_enough in ((1, False), (2, False), (3, True)):
        discovery.on_described(f"a{number}:1", described(number, CONFIG))
        assert discovery.is_enough == is_enough


def test_an_acceptor_that_was_away_takes_nobody_back_to_its_epoch() -> None:
    discovery = Discovery(ADDRESSES, prepare=0, accept=0, found=None)
    newer = msgspec.structs.replace(CONFIG, id=ConfigId(CONFIG.id.cluster, 3))
    discovery.on_described("a1:1", described(1, newer))
    discovery.on_described("a2:1", described(2, CONFIG))
    assert discovery.settled() == newer


def test_sizes_asked_for_are_those_that_a_change_under_way_leads_to() -> None:
    joint = msgspec.structs.replace(CONFIG, groups=(CONFIG.groups[0], group_of(SEATS, prepare=3, accept=1)))
    discovery = Discovery(ADDRESSES, prepare=3, accept=1, found=None)
    discovery.on_described("a1:1", described(1, joint))
    assert discovery.settled() == joint


def test_who_looks_whether_enough_is_known_is_not_disturbed_by_an_answer_that_comes() -> None:
    """Answers come in threads of their own."""
    discovery = Discovery(ADDRESSES, prepare=0, accept=0, found=None)

    class Slow:
        @property
        def config(self) -> object:
            discovery.on_described("a3:1", described(3, CONFIG))
            return CONFIG

    discovery._answered = {"a1:1": Slow(), "a2:1": described(2, CONFIG)}  # type: ignore[dict-item]
    assert discovery.is_enough and len(discovery._answered) == 3


def test_what_is_missing_is_named() -> None:
    discovery = Discovery(ADDRESSES, prepare=0, accept=0, found=None)
    assert "no acceptor answers" in str(discovery.unavailable())
    discovery.on_described("a1:1", described(1))
    assert "a2:1, a3:1" in str(discovery.unavailable())
    assert isinstance(discovery.unavailable(), Unavailable)


def test_an_error_says_what_connections_complain_of_and_no_more_than_fits() -> None:
    error = RequestTimeout("no quorum")
    error.__cause__ = OSError("reset")
    assert explained(error, []) is error
    assert explained(error, ["a1:1: refused"]).__cause__ is error.__cause__
    assert str(explained(error, ["a1:1: refused", "a2:1: reset"])) == "no quorum; a1:1: refused; a2:1: reset"
    assert isinstance(explained(error, ["a1:1: refused"]), RequestTimeout)
    assert len(str(explained(error, ["x" * 10_000] * 100))) < 2000
    for other in (UsageError("closed"), WrongCluster("of two sets")):
        assert explained(other, ["a1:1: refused"]) is other, "it has a reason of its own"


def test_an_acceptor_is_shown_with_what_is_wrong_with_it() -> None:
    assert view_of(SEATS[0], CONFIG, described(1, CONFIG), "").state == ""
    assert "replace this one" in view_of(SEATS[0], CONFIG, described(99), "").state
    later = msgspec.structs.replace(CONFIG, id=ConfigId(CONFIG.id.cluster, 2))
    assert "another configuration" in view_of(SEATS[0], CONFIG, described(1, later), "").state
    assert "another configuration" in view_of(SEATS[0], CONFIG, described(1), "").state
    assert "another set" in view_of(SEATS[0], CONFIG, described(1, OTHER), "").state
    assert view_of(SEATS[0], CONFIG, None, "refused").state == "refused"


class Hangs:
    """A port that greets like an acceptor and never answers anything else."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepted: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self._accepted.append(accepted)
            with contextlib.suppress(OSError):
                accepted.sendall(frame(encode_greeting(Welcome(1, CONFIG.id.cluster, NodeId(1)))))  # type: ignore[arg-type]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for accepted in self._accepted:
            accepted.close()


def test_an_acceptor_that_hangs_holds_a_bounded_number_of_threads_and_requests() -> None:
    port = Hangs()
    line = Line(port.address, None)
    try:
        before = threading.active_count()
        futures = [line.ask(Describe(), time.monotonic() + 20) for _ in range(lines.WAITING_MAX + 50)]
        refused = [future for future in futures if future.done()]
        assert len(refused) >= 50
        assert all(isinstance(future.exception(), LineLost) for future in refused)
        assert threading.active_count() - before <= lines.THREADS_MAX
    finally:
        line.close()
        port.close()
    for future in futures:
        assert future.cancelled() or isinstance(future.exception(timeout=10), LineLost)


def test_a_line_to_an_acceptor_that_hangs_stays_bounded_when_askers_give_up() -> None:
    """A quorum of the others answers, so every call lets go of its request to this one and the next call follows."""
    port = Hangs()
    line = Line(port.address, None)
    try:
        for _ in range(lines.WAITING_MAX):
            line.ask(Describe(), time.monotonic() + 20).cancel()
        refused = line.ask(Describe(), time.monotonic() + 20)
        assert isinstance(refused.exception(timeout=1), LineLost)
    finally:
        line.close()
        port.close()


def test_a_request_that_waits_when_the_client_is_closed_is_lost_not_cancelled() -> None:
    """`CancelledError` is no error of ours; whoever waits must be told what every caller handles."""
    port = Hangs()
    line = Line(port.address, None)
    try:
        futures = [line.ask(Describe(), time.monotonic() + 20) for _ in range(lines.THREADS_MAX + 5)]
        line.close()
        assert all(isinstance(future.exception(timeout=10), LineLost) for future in futures)
    finally:
        line.close()
        port.close()


def test_nobody_waits_for_an_acceptor_longer_than_the_call_may_take() -> None:
    """Its threads may all be held by calls with longer time-outs."""
    begin = time.monotonic()
    assert isinstance(failure_of(Future(), begin + 0.05), LineLost)
    assert time.monotonic() - begin < 5


@asynchronous
async def test_an_asyncio_line_to_an_acceptor_that_hangs_stays_bounded_when_askers_give_up() -> None:
    port = Hangs()
    line = AsyncLine(port.address, None)
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.ask(Describe()), 0.3)
        for _ in range(lines.WAITING_MAX):
            job = asyncio.create_task(line.ask(Describe()))
            await asyncio.sleep(0)
            job.cancel()
            await asyncio.wait([job])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(line.ask(Describe()), 0.01)
        assert line._connection is not None and len(line._connection._asked) == lines.WAITING_MAX
    finally:
        line.close()
        port.close()


@asynchronous
async def test_an_asyncio_request_waits_for_room_behind_those_that_are_not_answered() -> None:
    """Refused at once it would count as lost, and its call would make it again: with all the others, for ever."""
    connection, transport = aio_lines._Connection(), MagicMock(spec=asyncio.Transport)
    transport.get_extra_info.return_value = None
    transport.is_closing.return_value = False
    transport.get_write_buffer_size.return_value = 0
    connection.connection_made(transport)
    connection.data_received(frame(encode_greeting(WELCOME)))
    line = AsyncLine("a1:1", None)
    line._connection = connection
    jobs = [asyncio.create_task(line.ask(Describe())) for _ in range(lines.WAITING_MAX + 2)]
    await asyncio.sleep(0)
    assert len(connection._asked) == lines.WAITING_MAX
    connection.data_received(frame(encode_answer(1, Accepted())))
    assert await jobs[0] == Accepted()
    await asyncio.sleep(0)
    assert len(connection._asked) == lines.WAITING_MAX, "the next one has left, and one only"
    connection.connection_lost(None)
    for job in jobs[1:]:
        with pytest.raises(LineLost):
            await job


@asynchronous
async def test_what_can_not_be_sent_takes_up_no_room() -> None:
    """Only an answer would make it free again."""
    connection, transport = aio_lines._Connection(), MagicMock(spec=asyncio.Transport)
    transport.get_extra_info.return_value = None
    transport.is_closing.return_value = False
    connection.connection_made(transport)
    connection.data_received(frame(encode_greeting(WELCOME)))
    with pytest.raises(TypeError):
        connection.ask(Read(CONFIG.id, type("Bytes", (bytes,), {})(b"k")))
    assert not connection._asked
    connection.connection_lost(None)


@asynchronous
async def test_a_welcome_that_nobody_waits_for_any_more_ends_its_connection() -> None:
    connection, transport = aio_lines._Connection(), MagicMock(spec=asyncio.Transport)
    transport.get_extra_info.return_value = None
    transport.is_closing.return_value = False
    connection.connection_made(transport)
    connection.ready.cancel()
    connection.data_received(frame(encode_greeting(WELCOME)))
    transport.abort.assert_called_once()
    connection.connection_lost(None)


def test_a_dead_acceptor_is_given_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "REST_S", 60)
    monkeypatch.setattr(patience, "REST_MAX_S", 60)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    line = Line(address, None)
    try:
        with pytest.raises(LineLost, match="refused"):
            line.ask(Describe(), time.monotonic() + 5).result(5)
        at_once = line.ask(Describe(), time.monotonic() + 5)
        assert at_once.done(), "no thread is asked while it rests"
    finally:
        line.close()


def test_a_recorded_change_is_the_compare_and_set_that_it_amounts_to(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    with troth.recording(path):
        with recorded.call("put", b"k", b"1") as record:
            record.ends(RegisterReply(b"1", 1, True))
        with recorded.call("get", b"k") as record:
            record.ends(RegisterReply(b"1", 1, False))
        with recorded.cas(b"k", b"0", b"2") as record:
            record.ends(RegisterReply(b"1", 1, False))
        with recorded.call("delete", b"j") as record:
            record.ends(RegisterReply(None, 2, True))
        task = Proposer(new_client(), CONFIG).change(b"k", changes.put(b"9"))
        with pytest.raises(OutcomeUnknown), recorded.change(b"k") as record:
            record.attempts(task)
            raise OutcomeUnknown("nobody answered")
        with pytest.raises(OutcomeUnknown), recorded.call("put", b"k", b"3"):
            raise OutcomeUnknown("nobody answered")
    told = [(each.f, each.outcome.value) for each in read_history(path.read_bytes()).operations]
    assert told == [
        *(("put", "ok"), ("get", "ok"), ("cas", "ok"), ("delete", "ok")),
        *(("get", "fail"), ("put", "info")),
    ]
    assert recorded.change(b"k") is recorded.change(b"j"), "while nothing is recorded nothing is made"


@pytest.mark.parametrize(("expected", "status"), [(b"0", Status.OK), (b"1", Status.ILLEGAL)])
def test_a_comparison_that_was_refused_is_judged(tmp_path: Path, expected: bytes, status: Status) -> None:
    """It has seen something: a register that refuses one that holds is wrong."""
    path = tmp_path / "run.jsonl"
    with troth.recording(path):
        with recorded.call("put", b"k", b"1") as record:
            record.ends(RegisterReply(b"1", 1, True))
        with recorded.cas(b"k", expected, b"2") as record:
            record.ends(RegisterReply(b"1", 1, False))
    assert check(read_history(path.read_bytes()), "linearizable", "kv").status is status


def test_a_recording_that_calls_a_refused_comparison_a_failure_is_read_as_ever() -> None:
    """Earlier versions wrote it so."""
    asked = b'{"process":0,"type":"invoke","f":"cas","key":"k","value":["1","2"],"time":1}\n'
    failed = asked.replace(b"invoke", b"fail").replace(b"1}", b'2,"error":"the comparison did not hold"}')
    history = read_history(b'{"troth_history":1,"failed":"absent","nil_read":"value"}\n' + asked + failed)
    assert [each.outcome.value for each in history.operations] == ["fail"]
    assert check(history, "linearizable", "kv").status is Status.OK


def test_of_two_attempts_that_make_the_same_the_newer_was_applied(tmp_path: Path) -> None:
    """The older one was in doubt when the change was made anew, from what it then found."""
    path = tmp_path / "run.jsonl"
    older, newer = (
        Attempt(Ballot(number, 1), State(held, 1, Ballot(1, 2), ZERO), State(b"made", 2, Ballot(1, 2), ZERO))
        for number, held in ((1, b"old"), (2, b"new"))
    )
    with troth.recording(path), recorded.change(b"k") as record:
        record.attempts(MagicMock(spec=Round, attempts=[older]))
        record.attempts(MagicMock(spec=Round, attempts=[older, newer]))
        record.ends(RegisterReply(b"made", 2, True))
    told = [each for each in read_history(path.read_bytes()).operations if each.f == "cas"]
    assert [(each.argument[0], each.outcome.value) for each in told] == [("old", "fail"), ("new", "ok")]


def test_a_change_that_changes_nothing_is_recorded_as_a_read(tmp_path: Path) -> None:
    """Or nobody would notice that two who proposed were told of different decisions."""
    path = tmp_path / "run.jsonl"
    before, after = State(None, 0, ZERO, ZERO), State(b"1", 1, Ballot(1, 1), ZERO)
    applied = MagicMock(spec=Round, attempts=[Attempt(Ballot(1, 1), before, after)])
    kept = MagicMock(spec=Round, attempts=[])
    for told, status in ((b"1", Status.OK), (b"2", Status.ILLEGAL)):
        with troth.recording(path):
            with recorded.change(b"k") as record:
                record.attempts(applied)
                record.ends(RegisterReply(b"1", 1, True, True))
            with recorded.change(b"k") as record:
                record.attempts(kept)
                record.ends(RegisterReply(told, 1, False, True))
        history = read_history(path.read_bytes())
        assert check(history, "linearizable", "kv").status is status
        path.unlink()


def test_a_newer_configuration_moves_an_acceptor_from_the_address_given() -> None:
    """Until then the address that the caller gave counts: it may be the one that is reached from here."""
    discovery = Discovery(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], prepare=0, accept=0, found=None)
    discovery.on_described("127.0.0.1:1", described(1, CONFIG))
    assert discovery.address_of(NodeId(1), CONFIG) == "127.0.0.1:1"
    assert discovery.address_of(NodeId(2), CONFIG) is None
    seats = tuple(Seat(seat.acceptor, f"b{seat.acceptor}:1") for seat in SEATS)
    moved = founding(group_of(seats))
    assert discovery.address_of(NodeId(1), moved) == "b1:1"
    assert discovery.address_of(NodeId(1), CONFIG) == "127.0.0.1:1"


def test_a_name_that_is_looked_up_for_ever_holds_one_thread_and_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Event()
    answer = threading.Event()

    def hangs(host: str, port: int, **_: object) -> list[object]:
        looked.set()
        assert answer.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    lookup = Lookup("somewhere.invalid", 1)
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(TimeoutError, match=r"somewhere\.invalid was not found in time"):
            lookup.addresses(time.monotonic() + 0.01)
    assert time.monotonic() - began < 10
    assert looked.is_set()
    assert sum(thread.name == "troth lookup somewhere.invalid" for thread in threading.enumerate()) == 1
    answer.set()
    assert lookup.addresses(time.monotonic() + 30) == ["127.0.0.1"]


def test_a_name_that_is_not_there_is_said_and_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[object] = [
        OSError("no such name"),
        [(0, 0, 0, "", ("::1", 1, 0, 0)), (0, 0, 0, "", ("127.0.0.1", 1))],
    ]

    def found(*_: object, **__: object) -> object:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", found)
    lookup = Lookup("somewhere.invalid", 1)
    with pytest.raises(OSError, match="no such name"):
        lookup.addresses(time.monotonic() + 30)
    assert lookup.addresses(time.monotonic() + 30) == ["::1", "127.0.0.1"]
    assert Lookup("127.0.0.1", 1).addresses(0) == ["127.0.0.1"]


@asynchronous
async def test_a_client_closed_at_once_leaves_nothing_that_was_never_begun() -> None:
    registers = aio.PaxosClient(list(ADDRESSES))
    registers._backlog.add(b"k")
    await registers.close()
    await asyncio.sleep(0)  # a coroutine that is thrown away says so here


def test_a_forked_child_leaves_the_parents_connections_and_acceptors_alone() -> None:
    registers = PaxosClient.__new__(PaxosClient)
    line, registers.local_acceptors = MagicMock(), MagicMock()
    registers._reach = Reach(ADDRESSES, None, Discovery(ADDRESSES, prepare=0, accept=0, found=None))
    registers._reach._lines["a1:1"], registers._lock = line, threading.RLock()
    registers._backlog = Backlog(registers._reach, registers._lock)
    registers._reach._pid = os.getpid() + 1
    registers.close()
    assert not line.mock_calls and not registers.local_acceptors.mock_calls
    registers._reach._pid = os.getpid()
    registers.close()
    assert line.close.called and registers.local_acceptors.close.called


def test_a_unix_socket_speaks_plain_text_also_when_other_acceptors_speak_tls(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as acceptor:
        acceptor.bind(str(tmp_path / "a1"))
        acceptor.listen()

        def welcome() -> None:
            connection, _ = acceptor.accept()
            with connection:
                connection.sendall(frame(encode_greeting(WELCOME)))
                connection.recv(4096)

        thread = threading.Thread(target=welcome)
        thread.start()
        address = parse_address(f"unix:{tmp_path / 'a1'}")
        try:
            made = lines._Socket(address, ssl.create_default_context(), time.monotonic() + 5, None)
            assert made.acceptor == WELCOME.node_id
            made.close()
        finally:
            thread.join(5)
