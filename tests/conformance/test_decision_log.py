"""What every decision log promises, on the embedded file and on a troth cluster (issue: write-once cells, epochs)."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from fake_server import Served

import troth
from troth import LocalCluster
from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Gid, parse_gid
from troth.core.twophase.records import Abort, BranchRef, Commit, Heuristic, Member
from troth.errors import Corrupt, NotApplied, OutcomeUnknown, TrothError
from troth.transactions.log import pruning
from troth.transactions.log.file import FileLog
from troth.transactions.log.interface import Decided, DecisionLog
from troth.transactions.log.replicated import ReplicatedLog
from troth.transactions.log.standing import Standing, standing

Opener = Callable[..., DecisionLog]


@pytest.fixture(scope="module")
def processes_url() -> Iterator[str]:
    with LocalCluster(3) as cluster:
        yield cluster.url


@pytest.fixture
def store_url() -> Iterator[str]:
    """The store alone, behind the real frames."""
    served = Served()
    yield served.cluster.url
    served.stop()


@pytest.fixture(params=["store", pytest.param("processes", marks=pytest.mark.integration)])
def cluster_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture(params=["file", "store", pytest.param("processes", marks=pytest.mark.integration)])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens any number of logs (processes) on the same place."""
    logs: list[DecisionLog] = []
    url = "" if request.param == "file" else request.getfixturevalue(f"{request.param}_url")
    name = f"t{abs(hash(request.node.name)) % 10**9}"

    def open_one(coordinator: str | None = None) -> DecisionLog:
        log: DecisionLog
        if request.param == "file":
            log = FileLog(tmp_path / "log", coordinator=coordinator)
        else:
            log = ReplicatedLog.connect(url, name=name, coordinator=coordinator)
        logs.append(log)
        return log

    yield open_one
    for log in logs:
        log.close()


def gid(log: DecisionLog, sequence: int) -> str:
    return str(Gid(log.log_id, log.epoch.coordinator, log.epoch.number, sequence))


def commit(log: DecisionLog, sequence: int, *, key: str = "", delegate: str = "") -> Commit:
    name = gid(log, sequence)
    return Commit(name, (BranchRef("a", f"{name}.0", "7"), BranchRef("b", f"{name}.1")), key, delegate)


def parsed(name: str) -> Gid:
    found = parse_gid(name)
    assert found is not None
    return found[0]


def decided(log: DecisionLog, *commits: Commit) -> list[Decided | TrothError]:
    return log.decide(commits)


def test_a_cell_is_written_once(opened: Opener) -> None:
    log = opened()
    first = commit(log, 1)
    assert decided(log, first) == [Decided(Verdict.COMMIT, first.gid)]
    assert decided(log, first) == [Decided(Verdict.COMMIT, first.gid)]
    assert log.abort(Abort(first.gid)) is Verdict.COMMIT
    assert log.verdict(parsed(first.gid)) is Verdict.COMMIT
    assert log.commit_of(parsed(first.gid)) == first


def test_an_abort_that_came_first_wins(opened: Opener) -> None:
    log = opened()
    record = commit(log, 1)
    assert log.abort(Abort(record.gid, "test")) is Verdict.ABORT
    assert decided(log, record) == [Decided(Verdict.ABORT, record.gid)]
    assert log.commit_of(parsed(record.gid)) is None
    assert log.unapplied() == []


def test_no_cell_is_open_while_the_epoch_is_and_aborted_after(opened: Opener) -> None:
    first, second = opened("one"), opened("two")
    name = gid(first, 1)
    assert second.verdict(parsed(name)) is Verdict.OPEN
    assert second.close_epoch("one", even_if_alive=True)
    assert second.verdict(parsed(name)) is Verdict.ABORT


def test_an_epoch_that_is_closed_is_not_closed_again(opened: Opener) -> None:
    """By none of those who recover, each pass, for ever."""
    opened("one").close()
    others = [opened("two"), opened("three")]
    for _ in range(2):
        for other in others:
            assert other.close_epoch("one")
            assert {each.name: each.epoch for each in other.coordinators()} == {"one": 2, "two": 1, "three": 1}


def test_a_living_coordinator_is_not_fenced_unasked(opened: Opener) -> None:
    opened("one")
    second = opened("two")
    assert not second.close_epoch("one")
    assert not second.close_epoch("two", even_if_alive=True), "nobody closes its own epoch by accident"


def test_a_zombie_is_fenced(opened: Opener) -> None:
    """Whoever wakes up after a recovery decides nothing any more; what it had decided stays decided."""
    zombie, other = opened("one"), opened("two")
    before, after = commit(zombie, 1), commit(zombie, 2)
    decided(zombie, before)
    assert other.close_epoch("one", even_if_alive=True)
    assert decided(zombie, after) == [Decided(Verdict.ABORT, after.gid)]
    assert other.verdict(parsed(before.gid)) is Verdict.COMMIT
    assert other.verdict(parsed(after.gid)) is Verdict.ABORT
    assert [found.gid for found in other.unapplied()] == [before.gid]


def test_a_fenced_coordinator_goes_on_in_a_new_epoch(opened: Opener) -> None:
    zombie, other = opened("one"), opened("two")
    other.close_epoch("one", even_if_alive=True)
    late = commit(zombie, 1)
    assert decided(zombie, late) == [Decided(Verdict.ABORT, late.gid)]
    old = zombie.epoch
    assert zombie.renew().number > old.number
    fresh = commit(zombie, 2)
    assert decided(zombie, fresh) == [Decided(Verdict.COMMIT, fresh.gid)]
    assert other.verdict(parsed(late.gid)) is Verdict.ABORT


def test_a_restart_closes_the_epoch_before_and_keeps_the_decisions(opened: Opener) -> None:
    first = opened("one")
    kept, undecided = commit(first, 1), gid(first, 2)
    decided(first, kept)
    first.close()
    second = opened("one")
    assert second.epoch.number > parsed(kept.gid).epoch
    assert second.log_id == parsed(kept.gid).log
    assert second.verdict(parsed(kept.gid)) is Verdict.COMMIT
    assert second.verdict(parsed(undecided)) is Verdict.ABORT
    assert second.unapplied() == [kept]


def test_applied_decisions_are_remembered_and_not_looked_for(opened: Opener) -> None:
    first = opened("one")
    record = commit(first, 1)
    decided(first, record)
    first.note_applied([record.gid])
    assert first.unapplied() == []
    first.close()
    second = opened("one")
    assert second.unapplied() == []
    assert second.verdict(parsed(record.gid)) is Verdict.COMMIT


def test_another_process_notes_what_a_dead_one_had_decided(opened: Opener) -> None:
    first, second = opened("one"), opened("two")
    record = commit(first, 1)
    decided(first, record)
    first.close()
    assert second.close_epoch("one")
    assert second.unapplied() == [record]
    second.note_applied([record.gid])
    assert second.unapplied() == []
    assert second.verdict(parsed(record.gid)) is Verdict.COMMIT
    assert opened("three").unapplied() == [], "whoever looks next is told so"


def test_a_key_commits_once_in_the_whole_log(opened: Opener) -> None:
    first, second = opened("one"), opened("two")
    record, rival = commit(first, 1, key="order-1"), commit(second, 1, key="order-1")
    assert second.holder_of("order-1") is None
    assert decided(first, record) == [Decided(Verdict.COMMIT, record.gid)]
    assert decided(second, rival) == [Decided(Verdict.COMMIT, record.gid)]
    assert second.commit_of(parsed(rival.gid)) is None
    assert second.holder_of("order-1") == record.gid


def test_a_key_outlives_the_name_of_its_holder(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log remembers more keys than names: the retry of work whose holder is forgotten is a retry all the same."""
    pytest.importorskip("sqlalchemy")
    from troth.transactions.barrier import Barrier
    from troth.transactions.core import Core
    from troth.transactions.steps import nothing

    monkeypatch.setattr(pruning, "APPLIED_KEPT", 1)
    log = opened("one")
    if isinstance(log, FileLog):
        log._place.cells._applied_kept = 1
    first, newer, newest = commit(log, 1, key="order-1"), commit(log, 2), commit(log, 3)
    for record in (first, newer, newest):
        decided(log, record)
        log.note_applied([record.gid])
    decided(log)  # what is applied travels with it
    if isinstance(log, ReplicatedLog):
        log._prune()
    assert log.verdict(parsed(first.gid)) is Verdict.FORGOTTEN
    for each in (log, opened("two")):
        core = Core([], each, barrier=Barrier(None), on_step=nothing)
        assert core.committed_under("order-1") == first.gid
        assert core.committed_under("order-2") is None


def test_a_zombie_is_told_who_has_committed_under_its_key(opened: Opener) -> None:
    zombie, other = opened("one"), opened("two")
    taken, late = commit(other, 1, key="k"), commit(zombie, 1, key="k")
    decided(other, taken)
    other.close_epoch("one", even_if_alive=True)
    assert decided(zombie, late) == [Decided(Verdict.COMMIT, taken.gid)]


def test_two_with_one_key_in_one_batch(opened: Opener) -> None:
    log = opened()
    one, two = commit(log, 1, key="k"), commit(log, 2, key="k")
    answers = decided(log, one, two)
    assert len({answer.gid for answer in answers if isinstance(answer, Decided)}) == 1
    assert len(log.unapplied()) == 1


def test_a_delegated_cell_can_only_turn_into_abort_and_frees_its_key(opened: Opener) -> None:
    log = opened()
    record = commit(log, 1, key="k", delegate="lite")
    assert decided(log, record) == [Decided(Verdict.DELEGATED, record.gid)]
    assert log.verdict(parsed(record.gid)) is Verdict.DELEGATED
    log.note_refused(record.gid)
    assert log.verdict(parsed(record.gid)) is Verdict.ABORT
    assert log.holder_of("k") is None
    again = commit(log, 2, key="k")
    assert decided(log, again) == [Decided(Verdict.COMMIT, again.gid)]


def test_what_is_applied_is_refused_by_no_last_resource(opened: Opener) -> None:
    """The databases were restored to a moment when it had not committed yet; the log was kept, as it must be."""
    log, other = opened("one"), opened("two")
    record, next_one, last = commit(log, 1, key="k", delegate="lite"), commit(log, 2), commit(log, 3)
    decided(log, record)
    log.note_applied([record.gid])
    log.note_refused(record.gid)
    decided(log, next_one)
    log.note_refused(record.gid)
    decided(log, last)
    assert log.verdict(parsed(record.gid)) is Verdict.COMMIT
    assert decided(log, record) == [Decided(Verdict.COMMIT, record.gid)]
    log.close()
    assert other.close_epoch("one", even_if_alive=True)
    other.note_refused(record.gid)
    other.note_applied([next_one.gid])
    assert other.verdict(parsed(record.gid)) is Verdict.COMMIT
    assert other.holder_of("k") == record.gid
    again = opened("one")
    assert again.verdict(parsed(record.gid)) is Verdict.COMMIT


def test_names_of_other_logs_are_foreign(opened: Opener) -> None:
    log = opened()
    other = str(Gid("zzzzzzzz", log.epoch.coordinator, log.epoch.number, 1))
    assert log.abort(Abort(other)) is Verdict.FOREIGN
    assert log.commit_of(parsed(other)) is None
    assert log.verdict(Gid("zzzzzzzz", "one", 1, 1)) is Verdict.FOREIGN
    assert log.verdict(Gid(log.log_id, log.epoch.coordinator, log.epoch.number + 5, 1)) is Verdict.FOREIGN
    assert log.verdict(Gid(log.log_id, "nobody", 1, 1)) is Verdict.FOREIGN


def test_members_and_heuristics_are_kept(opened: Opener) -> None:
    first = opened("one")
    first.register([Member("a", "postgresql", "pg:0:0")])
    first.register([Member("a", "postgresql", "pg:1:2")])
    longer = gid(first, 36)  # "10"
    for name, participant in ((gid(first, 1), "a"), (gid(first, 1), "b"), (longer, "a")):
        first.note_heuristic(Heuristic(name, participant, "rolled back"))
    first.close()
    second = opened("one")
    assert second.members()["one"]["a"] == Member("a", "postgresql", "pg:1:2")
    found = second.heuristics()
    assert sorted((each.gid, each.participant) for each in found) == sorted(
        [(found[0].gid, "a"), (found[0].gid, "b"), (longer, "a")]
    )
    assert second.forget(found[0].gid, "operator")
    assert [each.gid for each in second.heuristics()] == [longer]
    assert not second.forget(found[0].gid, "operator")


def test_what_is_dealt_with_is_one_participants_part_of_a_transaction(opened: Opener) -> None:
    first, second = opened("one"), opened("two")
    name, longer = gid(first, 1), gid(first, 36)  # "1", "10"
    bank, stock = (Heuristic(name, participant, "rolled back") for participant in ("a/bank", "stock"))
    assert first.note_heuristic(bank)
    assert not second.note_heuristic(bank), "known already"
    assert second.forget(name, "operator")
    # A pass finds it again for as long as another database is away: no news, and nothing to repair.
    assert not first.note_heuristic(bank)
    assert not second.note_heuristic(bank)
    assert not first.forget(name, "operator")
    assert first.note_heuristic(stock)
    assert first.note_heuristic(Heuristic(longer, "a/bank", "rolled back"))
    assert stock in second.heuristics()
    assert bank not in second.heuristics()
    assert first.forget(name, "operator")
    first.close()
    again = opened("one")
    assert not again.note_heuristic(bank)
    assert not again.note_heuristic(stock)
    assert [each.gid for each in again.heuristics()] == [longer]


def test_more_is_dealt_with_than_one_transaction_of_a_cluster_takes(opened: Opener) -> None:
    log = opened()
    found = [Heuristic(gid(log, 1), f"p{number}", "rolled back") for number in range(70)]
    for each in found:
        assert log.note_heuristic(each)
    assert log.forget(gid(log, 1), "operator")
    assert log.heuristics() == []
    assert not any(log.note_heuristic(each) for each in found)


def test_the_first_free_place_is_taken(opened: Opener) -> None:
    first, second = opened(), opened()
    assert first.epoch.coordinator != second.epoch.coordinator
    name = first.epoch.coordinator
    first.close()
    assert opened().epoch.coordinator == name
    assert {c.name for c in second.coordinators()} >= {name, second.epoch.coordinator}


def test_many_that_were_in_doubt_are_noted_at_once(opened: Opener) -> None:
    """After an outage: more than a troth cluster takes operations in one transaction."""
    dead = opened("one")
    records = [commit(dead, number) for number in range(1, 200)]
    decided(dead, *records)
    dead.close()
    other = opened("two")
    other.close_epoch("one")
    assert len(other.unapplied()) == len(records)
    other.note_applied([record.gid for record in records])
    assert other.unapplied() == []


def test_two_processes_that_had_one_place_do_not_fence_each_other_for_ever(cluster_url: str) -> None:
    """The first was paused until its lease ran out; the second took the place; then the first woke up."""
    first = ReplicatedLog.connect(cluster_url, name="places", coordinator=None)
    first._client.delete("troth.2pc/log/places/alive/0")  # what the end of the lease does
    second = ReplicatedLog.connect(cluster_url, name="places", coordinator=None)
    assert second.epoch.coordinator == "0"
    late = commit(first, 1)
    assert decided(first, late) == [Decided(Verdict.ABORT, late.gid)]
    assert first.renew().coordinator == "1"
    ours, theirs = commit(first, 1), commit(second, 1)
    assert decided(first, ours) == [Decided(Verdict.COMMIT, ours.gid)]
    assert decided(second, theirs) == [Decided(Verdict.COMMIT, theirs.gid)]
    first.close()
    second.close()


def test_a_fixed_place_that_another_process_holds_is_not_renewed(cluster_url: str) -> None:
    first = ReplicatedLog.connect(cluster_url, name="fixed", coordinator="web")
    assert first.renew().number == 2, "while it is ours it is"
    first._client.delete("troth.2pc/log/fixed/alive/web")
    second = ReplicatedLog.connect(cluster_url, name="fixed", coordinator="web")
    with pytest.raises(NotApplied, match="web"):
        first.renew()
    theirs = commit(second, 1)
    assert decided(second, theirs) == [Decided(Verdict.COMMIT, theirs.gid)]
    first.close()
    other = ReplicatedLog.connect(cluster_url, name="fixed", coordinator=None)
    assert not other.close_epoch("web"), "the end of the first says nothing about the second, which lives"
    second.close()
    assert other.close_epoch("web"), "nobody waits for the lease of one that has said that it ends"
    other.close()


def test_a_place_that_could_not_be_taken_is_not_kept_from_others(
    cluster_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody would end its lease: the client of a log may be somebody else's, and goes on."""
    with troth.connect(cluster_url) as client:

        def lost(*_: object, **__: object) -> NoReturn:
            real(*_, **__)
            raise OutcomeUnknown("the answer is lost")

        real = client.txn
        taken = ReplicatedLog(client, name="unlucky", coordinator="one")
        taken.close()
        monkeypatch.setattr(client, "txn", lost)
        with pytest.raises(OutcomeUnknown):
            taken._place._take()
        monkeypatch.undo()
        assert client.get(taken._keys("alive", "one")).kv is None


def test_an_abort_is_never_forgotten_and_keeps_its_cell_while_its_owner_may_decide(
    cluster_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its branch may wait for days in a database that is down: then it is rolled back, not reported as nobody's."""
    monkeypatch.setattr(pruning, "APPLIED_KEPT", 1)
    log = ReplicatedLog.connect(cluster_url, name="prune", coordinator="one")
    refused, done, newest = commit(log, 1), commit(log, 2), commit(log, 3)
    log.abort(Abort(refused.gid, "test"))
    for record in (done, newest):
        decided(log, record)
        log.note_applied([record.gid])
    decided(log)  # what is applied travels with it
    log._prune()
    assert log.verdict(parsed(done.gid)) is Verdict.FORGOTTEN
    assert decided(log, refused) == [Decided(Verdict.ABORT, refused.gid)]
    log.renew()
    log._prune()
    cells = log._client.range(prefix="troth.2pc/log/prune/cell/", keys_only=True).kvs
    assert [kv.key.decode().rpartition("/")[2] for kv in cells] == [newest.gid]
    assert log.verdict(parsed(refused.gid)) is Verdict.ABORT
    log.close()


def test_what_was_dealt_with_goes_with_its_cell(cluster_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "APPLIED_KEPT", 1)
    log = ReplicatedLog.connect(cluster_url, name="dealt", coordinator="one")
    old, new = commit(log, 1), commit(log, 2)
    for record in (old, new):
        decided(log, record)
        log.note_heuristic(Heuristic(record.gid, "bank", "rolled back"))
        assert log.forget(record.gid, "operator")
        log.note_applied([record.gid])
    decided(log)
    log._prune()
    kept = log._client.range(prefix="troth.2pc/log/dealt/dealt/").kvs
    assert [(kv.key.decode(), kv.value) for kv in kept] == [
        (f"troth.2pc/log/dealt/dealt/{new.gid}/bank", b"operator")
    ]
    log.close()


def test_two_that_forget_at_once_lose_no_bit(cluster_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "APPLIED_KEPT", 0)
    log = ReplicatedLog.connect(cluster_url, name="bits", coordinator="one")
    first, second = commit(log, 1), commit(log, 2)
    decided(log, first)
    log.note_applied([first.gid])
    decided(log)
    real = pruning.Forgotten

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        """Another one forgets the second, after we have read the bits."""
        monkeypatch.setattr(pruning, "Forgotten", real)
        decided(log, second)
        log.note_applied([second.gid])
        decided(log)
        log._prune()
        return real(*arguments, **options)

    monkeypatch.setattr(pruning, "Forgotten", meanwhile)
    log._prune()
    assert log.verdict(parsed(second.gid)) is Verdict.FORGOTTEN
    assert log.verdict(parsed(first.gid)) in (Verdict.FORGOTTEN, Verdict.COMMIT)
    log.close()


def test_pruning_goes_past_a_page_of_cells_that_must_stay(
    cluster_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database is away: its decisions are the oldest, and not applied. `troth status` counts them."""
    monkeypatch.setattr(pruning, "APPLIED_KEPT", 1)
    monkeypatch.setattr(pruning, "PAGE_MAX", 2)
    log = ReplicatedLog.connect(cluster_url, name="stall", coordinator="one")
    records = [commit(log, number) for number in range(1, 7)]
    decided(log, *records)
    log.note_applied([record.gid for record in records[3:]])
    decided(log)
    for _ in range(3):
        log._prune()
    verdicts = [log.verdict(parsed(record.gid)) for record in records]
    assert verdicts == [Verdict.COMMIT] * 3 + [Verdict.FORGOTTEN] * 2 + [Verdict.COMMIT], (
        "nor is the newest dropped"
    )
    assert standing(log._client)["stall"] == Standing(unnoted=3, heuristics=0)
    log.close()


@pytest.mark.parametrize("key", [None, 5, b"x", "\ud800"])
def test_what_could_not_be_read_back_is_refused(opened: Opener, key: Any) -> None:
    log = opened("one")
    bad, good = commit(log, 1, key=key), commit(log, 2, key="good")
    (answer,) = decided(log, bad)
    assert isinstance(answer, NotApplied)
    assert decided(log, good) == [Decided(Verdict.COMMIT, good.gid)]
    assert log.verdict(parsed(bad.gid)) is Verdict.OPEN
    assert log.unapplied() == [good]


def test_a_cell_that_nobody_can_read_stops_nothing_but_its_own_transaction(
    cluster_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "APPLIED_KEPT", 0)
    log = ReplicatedLog.connect(cluster_url, name="damaged", coordinator="one")
    damaged, kept = commit(log, 1), commit(log, 2)
    decided(log, damaged, kept)
    log._client.put(log._keys("cell", "one", damaged.gid), b"\x94\x01")
    for ask in (log.verdict, log.commit_of):
        with pytest.raises(Corrupt, match="cell/one/"):
            ask(parsed(damaged.gid))
    with pytest.raises(Corrupt, match="cell/one/"):
        log.unapplied()
    unread: dict[str, str] = {}
    assert log.unapplied(unread) == [kept] and "cell/one/" in unread["one"]
    unknown, known = decided(log, damaged, kept)
    assert isinstance(unknown, OutcomeUnknown) and known == Decided(Verdict.COMMIT, kept.gid)
    log.note_applied([damaged.gid, kept.gid])
    decided(log)
    log.close()
    again = ReplicatedLog.connect(cluster_url, name="damaged", coordinator="one")
    assert again.verdict(parsed(kept.gid)) is Verdict.FORGOTTEN, "pruned, beside one that stays"
    again.close()


@pytest.mark.parametrize("error", [asyncio.CancelledError(), ValueError("a bug")])
def test_a_decision_that_was_cut_short_may_stand(
    error: BaseException, cluster_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ReplicatedLog.connect(cluster_url, name="cut", coordinator="one")
    record, real = commit(log, 1), log._client.aio.txn

    async def cut_short(*arguments: Any, **options: Any) -> NoReturn:
        await real(*arguments, **options)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(log._client.aio, "txn", cut_short)
        (answer,) = decided(log, record)
    assert isinstance(answer, OutcomeUnknown)
    assert log.verdict(parsed(record.gid)) is Verdict.COMMIT
    log.close()


# ---- the cluster's log: between what it reads and what it writes others go on -----------------------------


def after_reading(
    log: ReplicatedLog, monkeypatch: pytest.MonkeyPatch, read: str, then: Callable[[], object]
) -> None:
    """Let *then* happen once, when the client of *log* has been answered its next *read*."""
    client, real = log._client, getattr(log._client, read)

    def answered(*arguments: Any, **options: Any) -> Any:
        reply = real(*arguments, **options)
        monkeypatch.setattr(client, read, real)
        then()
        return reply

    monkeypatch.setattr(client, read, answered)


def test_two_that_open_an_epoch_at_once_own_two(cluster_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ReplicatedLog.connect(cluster_url, name="race", coordinator="one")
    other = ReplicatedLog.connect(cluster_url, name="race", coordinator="two")
    other._place.name = "one"
    after_reading(first, monkeypatch, "get", other._place._open_epoch)
    first._place.epoch = first._place._open_epoch()
    assert first.epoch.number == 3
    first.close()
    other.close()


def test_an_epoch_that_is_opened_while_the_last_is_closed_stays_open(
    cluster_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ReplicatedLog.connect(cluster_url, name="wakes", coordinator="one")
    other = ReplicatedLog.connect(cluster_url, name="wakes", coordinator="two")
    first._client.delete("troth.2pc/log/wakes/alive/one")
    assert [(each.name, each.is_alive) for each in other.coordinators()] == [("one", False), ("two", True)]
    after_reading(other, monkeypatch, "txn", first.renew)
    assert not other.close_epoch("one"), "it lives"
    fresh = commit(first, 1)
    assert decided(first, fresh) == [Decided(Verdict.COMMIT, fresh.gid)]
    first.close()
    other.close()


def test_a_refusal_that_comes_late_frees_no_key_that_is_taken_since(
    cluster_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner and recovery may both have been refused by the last resource."""
    owner = ReplicatedLog.connect(cluster_url, name="late", coordinator="one")
    other = ReplicatedLog.connect(cluster_url, name="late", coordinator="two")
    refused, again = commit(owner, 1, key="k", delegate="lite"), commit(owner, 2, key="k")
    decided(owner, refused)

    def meanwhile() -> None:
        other.note_refused(refused.gid)
        decided(owner, again)

    after_reading(owner, monkeypatch, "get", meanwhile)
    owner.note_refused(refused.gid)
    assert other.holder_of("k") == again.gid
    assert standing(owner._client)["late"].unnoted == 1, "a refused one waits for nothing"
    owner.close()
    other.close()


def test_a_closed_epoch_is_nobodys(cluster_url: str) -> None:
    first = ReplicatedLog.connect(cluster_url, name="closed", coordinator="one")
    other = ReplicatedLog.connect(cluster_url, name="closed", coordinator="two")
    assert other.close_epoch("one", even_if_alive=True)
    assert [(each.name, each.is_alive) for each in other.coordinators()] == [("one", False), ("two", True)]
    first.close()
    other.close()


def test_what_was_not_delegated_is_not_taken_back(cluster_url: str) -> None:
    log = ReplicatedLog.connect(cluster_url, name="own", coordinator="one")
    record = commit(log, 1)
    decided(log, record)
    log.note_refused(record.gid)
    assert log.verdict(parsed(record.gid)) is Verdict.COMMIT
    log.close()
