"""Moments that a seed makes likely on purpose: that they come, and that what they would show is noticed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from troth.client.watch import Watch
from troth.core.interface import Entry
from troth.errors import IdentityLost
from troth.ids import NodeId
from troth.rehearsal.cluster import Cluster
from troth.rehearsal.levels import simpler_servers
from troth.rehearsal.plan import CHANCES, RARE, RATES, Plan, draw
from troth.rehearsal.run import STEPS, Outcome, Rehearsal
from troth.replica.machine import LoggedCommand
from troth.replica.protocol import ServerStatus, WatchEvents
from troth.replica.replica import Replica
from troth.runtime import joining
from troth.runtime.genesis import Introduction
from troth.simulate.choices import Choices
from troth.storage.log import WriteAheadLog


def plan_with(seed: int, **settings: int) -> Plan:
    """A plan without any fault but those that *settings* name."""
    quiet = dict.fromkeys((*RATES, *CHANCES, *RARE), 0)
    return replace(draw(seed, chaos_seconds=10), think_us=100_000, quota_bytes=1 << 30, **(quiet | settings))


def green(plan: Plan) -> Outcome:
    outcome = Rehearsal(plan).run()
    assert not outcome.violation, outcome.violation
    return outcome


def test_each_moment_is_drawn_for_some_seeds_and_leaves_all_others_as_they_are() -> None:
    drawn: Counter[str] = Counter()
    for seed in range(200):
        plan = draw(seed, chaos_seconds=10)
        drawn.update(name for name in RARE if getattr(plan, name))
        drawn["short segments"] += plan.segment_bytes < 4096
        drawn["none"] += plan.segment_bytes >= 4096 and not any(getattr(plan, name) for name in RARE)
        assert not plan.late_followers or plan.servers > 3
    assert all(10 <= drawn[name] <= 80 for name in (*RARE, "short segments")), drawn
    assert drawn["none"] >= 50, drawn


def test_the_shrinker_tries_to_do_without_each_moment() -> None:
    plan = plan_with(1, **dict.fromkeys(RARE, 1))
    assert {name for name in RARE for each in simpler_servers(plan) if each == replace(plan, **{name: 0})} == {
        *RARE
    }
    assert all(name in plan.describe() for name in RARE)


def backlogs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many entries had waited, each time that a server caught up; filled while simulations run."""
    waited: list[int] = []
    catch_up = Replica._catch_up

    def counted(self: Replica) -> None:
        waited.append(len(self._backlog))
        catch_up(self)

    monkeypatch.setattr(Replica, "_catch_up", counted)
    return waited


def test_writes_go_on_while_a_snapshot_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is committed meanwhile is applied behind it, before states are compared."""
    waited = backlogs(monkeypatch)
    for seed in range(20):
        green(plan_with(seed, servers=3, crashes=40, load_us=200_000, snapshot_entries=3, log_kept_entries=0))
        if any(waited):
            return
    pytest.fail(f"{len(waited)} snapshots were loaded, and nothing was committed meanwhile")


def test_long_work_is_done_in_small_steps_with_other_work_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is committed while a deletion is made ready waits; the usual measures hold again behind the run."""
    waited = backlogs(monkeypatch)
    usual = [getattr(module, name) for module, name, _ in STEPS]
    outcome = green(plan_with(4, servers=3, round_us=10_000))
    assert outcome.operations["sweeps"] > 5
    assert any(entries > 1 for entries in waited)
    assert [getattr(module, name) for module, name, _ in STEPS] == usual


@pytest.mark.slow
def test_bounds_are_met_where_they_are_tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes are refused, committed entries are passed over while a snapshot is loaded, and watches pause."""
    met: Counter[str] = Counter()
    put_off, refuse, on_events = Replica._put_off, Replica._refuse_command, Watch.on_events

    def counted_backlog(self: Replica, entries: Sequence[Entry]) -> None:
        put_off(self, entries)
        met["backlog"] += self._backlog_full

    def counted_refusal(self: Replica, client: int, command: LoggedCommand, code: str, text: str) -> None:
        met[code] += 1
        refuse(self, client, command, code, text)

    def counted_watch(self: Watch, message: WatchEvents) -> None:
        on_events(self, message)
        met["watch"] += self.is_paused

    monkeypatch.setattr(Replica, "_put_off", counted_backlog)
    monkeypatch.setattr(Replica, "_refuse_command", counted_refusal)
    monkeypatch.setattr(Watch, "on_events", counted_watch)
    settings = {"load_us": 400_000, "snapshot_entries": 3, "log_kept_entries": 0, "watchers": 1, "clients": 4}
    for seed in range(20):
        green(plan_with(seed, servers=3, crashes=40, tight=1, **settings))
        if met["backlog"] and met["overloaded"] and met["watch"]:
            return
    pytest.fail(f"met: {met}")


def test_servers_start_again_from_segments_of_an_entry_or_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """While older ones were removed, and some behind the newest snapshot stand just before the end."""
    close: list[int] = []
    compact = WriteAheadLog._compact

    def counted(self: WriteAheadLog, keep_from: int) -> None:
        close.extend(each.top for each in self._segments[:-1] if keep_from <= each.top)
        compact(self, keep_from)  # type: ignore[arg-type]

    monkeypatch.setattr(WriteAheadLog, "_compact", counted)
    settings = {"segment_bytes": 300, "snapshot_entries": 10, "log_kept_entries": 0, "disk_us": 50_000}
    faults: Counter[str] = Counter()
    for seed in range(20):
        faults.update(green(plan_with(seed, servers=3, power_losses=30, **settings)).faults)
        if close and faults["power"] > 5:
            return
    pytest.fail(f"{close} of {faults}")


def test_a_watch_from_now_on_begins_at_a_server_that_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    old: list[int] = []
    on_events = Watch.on_events

    def counted(self: Watch, message: WatchEvents) -> None:
        old.extend(
            event.kv.mod_revision for event in message.events if event.kv.mod_revision < self._next_revision
        )
        on_events(self, message)

    monkeypatch.setattr(Watch, "on_events", counted)
    outcome = green(plan_with(3, servers=3, fresh_watchers=2))
    assert old and outcome.operations["fresh watches"]


def test_a_watch_that_shows_what_its_client_has_seen_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def shows_all(self: Watch, message: WatchEvents) -> None:
        self._next_revision = max(self._next_revision, message.revision + 1)
        if message.events:
            self._buffer.append(message)
            self._wake()

    monkeypatch.setattr(Watch, "on_events", shows_all)
    outcome = Rehearsal(plan_with(3, servers=3, fresh_watchers=2)).run()
    assert outcome.violation.startswith("a watch shows what it was not asked for")


@pytest.mark.slow
def test_who_joins_asks_somebody_first_who_has_not_heard_that_its_predecessor_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[NodeId] = []
    status_of = joining._status

    async def told(call: object, me: Introduction) -> ServerStatus:
        status = await status_of(call, me)  # type: ignore[arg-type]
        asked.extend(peer.node_id for peer in status.peers if peer.member.name == me.name != status.name)
        return status

    monkeypatch.setattr(joining, "_status", told)
    faults: Counter[str] = Counter()
    for seed in range(10):
        faults.update(green(plan_with(seed, servers=5, changes=30, late_followers=100)).faults)
    assert faults["late follower"] and asked


def test_who_joins_may_not_be_told_that_its_name_is_taken_when_nobody_has_it() -> None:
    cluster = Cluster(plan_with(1, servers=3), Choices())
    for host in cluster.hosts.values():
        host.boot()
    assert cluster.run_until(30_000_000, lambda: cluster.leader() is not None)
    host = cluster.hosts["n1"]
    host.joins = True
    assert host._is_expected(IdentityLost("n1 is a member"))
    host.name = "n9"
    assert not host._is_expected(IdentityLost("nobody is called n9"))
