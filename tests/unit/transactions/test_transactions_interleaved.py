"""Coordinators on one directory, interleaved at every file-system call: what anybody was told is what holds in the end.

Here are the real files, which the simulation (tests/simulation/test_twophase.py) takes for one perfect cell each: who
claims, reads, writes, syncs and looks does so in steps, and others come in between.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("greenlet")

from machine import FIRST_BYTES, Machine

from troth.core.twophase.cells import Verdict
from troth.core.twophase.gid import Gid, parse_gid
from troth.core.twophase.records import Commit, Member
from troth.errors import NotApplied, StorageError
from troth.transactions.log import place, writer
from troth.transactions.log.file import FileLog

TAKERS, READERS = "cd", "rs"
KEYS = ("", "", "k", "l")
SURE = (Verdict.COMMIT, Verdict.ABORT)


def gid_of(name: str) -> Gid:
    found = parse_gid(name)
    assert found is not None
    return found[0]


class Run:
    """One owner, up to two that take its place over, and one or two that read, ask about keys and take some."""

    def __init__(self, seed: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.begun: dict[str, str] = {}
        """gid -> its key."""
        self.told: list[tuple[str, str, Verdict]] = []
        """(by whom, gid, verdict)."""
        self.too_early: list[tuple[str, str]] = []
        """(by whom, gid): told of what a power cut could still undo."""
        self.left_out: list[tuple[str, str]] = []
        """(by whom, gid): was on the disk, and not applied, when it was asked what is; and was not told."""
        self.applied: set[str] = set()
        self.machine = Machine(seed, monkeypatch)
        self.rng = self.machine.rng
        syncs_fail = bool(seed % 2)
        names = "a" + TAKERS[: self.rng.randrange(3)] + READERS[: self.rng.randrange(1, 3)]
        self.logs = {name: FileLog(root, coordinator=name, compact_bytes=1000) for name in names}
        for name in names:
            work = self._own if name == "a" else self._take_over if name in TAKERS else self._read
            fails_one_in = (2 if name in READERS else 60) if syncs_fail else 0
            self.machine.spawn(
                self._quietly(work, name), on_death=self.logs[name]._hold.let_go, fails_one_in=fails_one_in
            )
        if syncs_fail:
            self.machine.run(self.rng.randrange(30, 200))
            self.machine.cut_power()
        else:
            self.machine.run()

    def _quietly(self, work: Callable[[str], None], name: str) -> Callable[[], None]:
        def until_the_log_fails() -> None:
            for _ in range(self.rng.randrange(1, 3) if name in TAKERS else 4):
                try:
                    work(name)
                except (StorageError, OSError):
                    pass  # nobody was told anything

        return until_the_log_fails

    def _own(self, name: str) -> None:
        self._decide(name)
        log = self.logs[name]
        match self.rng.randrange(4):
            case 0 | 1:
                log.register([Member("x", "sqlite", str(self.rng.randrange(3)))])
            case 2:
                mine = [gid for who, gid, verdict in self.told if who == "a" and verdict is Verdict.COMMIT]
                self.applied.update(mine)
                log.note_applied(mine)
            case _:
                pass

    def _decide(self, name: str) -> None:
        log = self.logs[name]
        gid = log.epoch.name(len(self.begun) + 1)
        commit = Commit(gid, (), key=self.rng.choice(KEYS))
        self.begun[gid] = commit.key
        (answer,) = log.decide([commit])
        if isinstance(answer, NotApplied):
            self._tell(name, gid, Verdict.ABORT)
        elif not isinstance(answer, Exception):
            self._tell(name, answer.gid, answer.verdict)
            if answer.gid != gid:
                self._tell(name, gid, Verdict.ABORT)
            elif answer.verdict is Verdict.ABORT and gid.startswith(log.epoch.prefix):
                log.renew()

    def _take_over(self, name: str) -> None:
        self.logs[name].close_epoch("a", even_if_alive=True)
        self._ask(name)

    def _read(self, name: str) -> None:
        if not self.rng.randrange(3):
            self._decide(name)
        self._ask_for_unapplied(name)
        self._ask(name)

    def _ask_for_unapplied(self, name: str) -> None:
        """Silence means that nothing is left to do, unless it is said where."""
        there = [gid for gid in self.begun if gid not in self.applied and self.machine.is_synced(gid)]
        unread: dict[str, str] | None = None if self.rng.randrange(2) else {}
        found = {commit.gid for commit in self.logs[name].unapplied(unread)}
        for gid in found:
            self._tell(name, gid, Verdict.COMMIT)
        for gid in set(there) - found - self.applied:
            if not unread or gid_of(gid).coordinator not in unread:
                self.left_out.append((name, gid))

    def _ask(self, name: str) -> None:
        for gid in list(self.begun)[-3:]:
            if gid_of(gid).coordinator != name:  # of its own, an owner knows what it will not decide
                self._tell(name, gid, self.logs[name].verdict(gid_of(gid)))

    def _tell(self, who: str, gid: str, verdict: Verdict) -> None:
        if verdict is Verdict.COMMIT and not self.machine.is_synced(gid):
            self.too_early.append((who, gid))
        if verdict in SURE:
            self.told.append((who, gid, verdict))

    def check(self) -> None:
        """What was told holds, and no key has committed twice."""
        assert self.too_early == []
        for log in self.logs.values():
            log._hold.let_go()
        last = FileLog(self.root, coordinator="last")
        for name in self.logs:
            assert last.close_epoch(name)
        final = {gid: last.verdict(gid_of(gid)) for gid in self.begun}
        last.close()
        assert [each for each in self.told if each[2] is not final[each[1]]] == []
        assert [each for each in self.left_out if final[each[1]] is Verdict.COMMIT] == []
        for key in set(KEYS) - {""}:
            assert sum(self.begun[gid] == key and final[gid] is Verdict.COMMIT for gid in self.begun) <= 1


def test_what_anybody_was_told_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search(range(150), tmp_path, monkeypatch)


@pytest.mark.slow
def test_what_anybody_was_told_holds_in_very_many_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of these, each hundredth to thousandth finds an owner that writes over its own file, a reader that does not look
    again, or one that believes what it could not sync."""
    search(range(150, 5000), tmp_path, monkeypatch)


def search(seeds: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every other run syncs fail, and the power with them."""
    for module in (place, writer):
        monkeypatch.setattr(module, "AHEAD_BYTES", FIRST_BYTES)
    monkeypatch.setattr(place, "SETTLE_TIMES", 3)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for seed in seeds:
        with monkeypatch.context() as patched:
            run = Run(seed, tmp_path / str(seed), patched)
        try:
            run.check()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
