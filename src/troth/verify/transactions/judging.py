"""One history judged by one model: phenomena by the dependency graph and its cycles, or axioms by saturation.

Two families of definitions meet here. "adya" (the default) judges by Adya's phenomena, where only strong session models
and causal look at sessions. "axiomatic" takes read committed, read atomic, causal, snapshot isolation and serializable
from Biswas & Enea 2019, all of which respect sessions; it is the default for AWDIT's files, which are meant that way.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

from troth.verify.history import History
from troth.verify.transactions.append import AppendInference
from troth.verify.transactions.cycles import Cycle, CycleSearch
from troth.verify.transactions.explain import CycleView, view_of_cycle, view_of_finding, view_of_weak
from troth.verify.transactions.graph import PROCESS, REALTIME, RW, OutOfTime
from troth.verify.transactions.levels import (
    ANOMALIES,
    LEVELS,
    Level,
    boundary,
    implied_levels,
    ruled_out,
)
from troth.verify.transactions.micro import Transactions, workload_of
from troth.verify.transactions.outcome import TransactionVerdict
from troth.verify.transactions.register import RegisterAssumptions, RegisterInference
from troth.verify.transactions.runs import STEPS_FIRST, Inference, Runs
from troth.verify.transactions.snapshot import tails_fit
from troth.verify.transactions.weak import Axiom, WeakHistory, weak_violation
from troth.verify.verdict import Part, Status

Definition: TypeAlias = Literal["adya", "axiomatic"]

_AXIOMATIC: Final = {
    "snapshot-isolation": "strong-session-snapshot-isolation",
    "serializable": "strong-session-serializable",
}
_AXIOMS: Final[dict[str, Axiom]] = {"read-committed": "committed", "read-atomic": "atomic", "causal": "causal"}
_AXIOM_ANOMALIES: Final = {
    "committed": ("non-monotonic-read", "{0} had read from {1} before"),
    "atomic": ("fractured-read", "{0} follows {1} directly"),
    "causal": ("causality-violation", "{0} causally follows {1}"),
}
_SEARCH_FREE: Final = frozenset(LEVELS) - {
    name for name in LEVELS if not implied_levels(name).isdisjoint({"cursor-stability", "snapshot-isolation"})
}
_SEARCHES: Final = {
    "snapshot-isolation": (0, True, "not-snapshot-isolated"),
    "strong-session-snapshot-isolation": (PROCESS, True, "not-snapshot-isolated-process"),
    "strong-snapshot-isolation": (REALTIME, True, "not-snapshot-isolated-realtime"),
    "serializable": (0, False, "not-serializable"),
    "strong-session-serializable": (PROCESS, False, "not-serializable-process"),
    "strict-serializable": (REALTIME, False, "not-serializable-realtime"),
}
_UNTIMED: Final = {
    "strict-serializable": "strong-session-serializable",
    "strong-snapshot-isolation": "strong-session-snapshot-isolation",
    "strong-read-committed": "strong-session-read-committed",
    "strong-read-uncommitted": "strong-session-read-uncommitted",
}
"""Models of real time -> what is left of them where it is not known."""

_STEPS_MAX: Final = 1_000_000
_SUFFIX: Final = {0: "", PROCESS: "-process", REALTIME: "-realtime"}


def judged(
    history: History,
    workload: str | None,
    level: Level,
    definition: Definition,
    assume: RegisterAssumptions,
    expired: Callable[[], bool],
) -> TransactionVerdict:
    """The verdict on a history in which every transaction is known to have gone one way, if it happened."""
    transactions = Transactions(history)
    found = workload_of(transactions) if workload is None else workload
    inference: Inference
    if found == "list-append":
        inference = AppendInference(transactions)
    else:
        inference = RegisterInference(transactions, assume)
    check = _Check(transactions, inference, found, expired)
    if definition == "axiomatic" and level.name in _AXIOMS:
        return check.axiomatic(level.name)
    if definition == "axiomatic":
        return check.adya(_AXIOMATIC.get(level.name, level.name), asked=level.name)
    return check.adya(level.name, asked=level.name)


class _Check:
    """One history, judged."""

    def __init__(
        self, transactions: Transactions, inference: Inference, workload: str, expired: Callable[[], bool]
    ) -> None:
        self.transactions, self.inference = transactions, inference
        self.workload, self.expired = workload, expired
        self.alive = [node for node, happened in enumerate(inference.committed) if happened]
        self.runs = Runs(transactions, inference, self.alive, expired)
        self.edges, self.process_edges = self.runs.edges, self.runs.process_edges
        self.views: dict[str, CycleView] = {
            name: view_of_finding(kept[0], transactions) for name, kept in inference.findings.by_anomaly.items()
        }
        self.open: dict[str, str] = {}
        """model -> why an ok would be a guess"""
        self.late = False
        self.order: tuple[int, ...] | None = None
        self.serial: tuple[int, ...] | None = None
        """the run that a search found"""

    def adya(self, model: str, *, asked: str) -> TransactionVerdict:
        """The dependency graph, its cycles, what they rule out, and what of *model* is left to be shown."""
        cycles: dict[str, Cycle] = {}
        search: CycleSearch | None = None
        try:
            clock = self.transactions.clock() if self.transactions.timed else None
            search = CycleSearch(
                len(self.transactions),
                self.alive,
                self.edges,
                self.process_edges,
                clock,
                self.expired,
            )
            self.order = search.order
            search.find(cycles, timed=clock is not None)
        except OutOfTime:
            self.late = True
        for name, cycle in cycles.items():
            self.views[name] = view_of_cycle(cycle, self.transactions, self.inference)
        try:
            if search is not None and not self.late:
                if isinstance(self.inference, AppendInference):
                    self._weak_models(search)
                    self._tails(search, self.inference)
                elif not self._quickly_serial(search):
                    self._weak_models(search)
                    self._registers(model if self.transactions.timed else _UNTIMED.get(model, model))
        except OutOfTime:
            self.late = True
        return self._verdict(model, asked)

    def axiomatic(self, model: str) -> TransactionVerdict:
        """Read committed, read atomic or causal by the axioms of Biswas & Enea, sessions included."""
        axiom = _AXIOMS[model]
        doubted = False
        status, reason = Status.OK, ""
        blatant: list[str] = []
        try:
            blatant = [
                name
                for name in self.views
                if name
                in (
                    "thin-air-read",
                    "G1a",
                    "G1b",
                    "incompatible-order",
                    "duplicate-elements",
                    "future-read",
                    "cyclic-versions",
                )
                # Even the axioms' read committed demands that a transaction reads its own last write.
                or (name == "internal" and (axiom != "committed" or self.inference.own_write_missed))
            ]
            if not blatant:
                self._axiom(axiom, sessions=True, name=_AXIOM_ANOMALIES[axiom][0], every_read=axiom == "committed")
            doubted = bool(self.inference.doubts)
        except OutOfTime:
            self.late = True
        for name in [*self.views]:
            if name not in blatant and name != _AXIOM_ANOMALIES[axiom][0]:
                del self.views[name]
        if self.views:
            status = Status.ILLEGAL
            reason = f"{', '.join(self.views)}: not {model} (Biswas & Enea)"
        elif self.late:
            status, reason = Status.UNKNOWN, "out of time"
        elif doubted:
            status, reason = Status.UNKNOWN, self.inference.doubts[0]
        weaker_first = ("read-committed", "read-atomic", "causal")
        stronger = (*weaker_first[weaker_first.index(model) + 1 :], "snapshot-isolation", "serializable")
        return TransactionVerdict(
            status,
            history=self.transactions.history,
            model=model,
            workload=self.workload,
            reason=reason,
            anomalies=tuple(self.views),
            views=tuple(self.views.values()),
            not_=(model,) if status is Status.ILLEGAL else (),
            also_not=stronger if status is Status.ILLEGAL else (),
            part=self._part(status, "saturation", "O(n k)" if axiom == "causal" else "O(n^1.5)"),
            witness=None,
        )

    def _weak_models(self, search: CycleSearch) -> None:
        """Read atomic and causal: nothing to do where a serial order in real time exists and reads are plain."""
        if search.order is not None and not self.views and isinstance(self.inference, AppendInference):
            return
        # A register's reads can break these without a cycle of known edges.
        if "read-atomic" not in ruled_out(self.views):
            self._axiom("atomic", sessions=False, name="fractured-read")
        if "causal" not in ruled_out(self.views):
            self._axiom("causal", sessions=True, name="causality-violation")

    def _axiom(self, axiom: Axiom, *, sessions: bool, name: str, every_read: bool = False) -> None:
        count = len(self.transactions)
        reads, writes = self.runs.accesses(every_read=every_read)
        sources, targets, kinds = self.edges
        known = kinds != RW
        weak = WeakHistory(
            count=count,
            alive=self.alive,
            sessions=self.transactions.sessions if sessions else None,
            reads=reads,
            writes=writes,
            order=(sources[known].tolist(), targets[known].tolist()),
            before=self.process_edges if sessions else ([], []),
        )
        violation = weak_violation(weak, axiom, self.expired)
        if violation is not None:
            rule = _AXIOM_ANOMALIES[axiom][1]
            self.views[name] = view_of_weak(violation, name, rule, self.transactions, self.inference)

    def _tails(self, search: CycleSearch, inference: AppendInference) -> None:
        """Snapshot isolation may hang on the order of appends that nobody read."""
        tails = list(inference.tails.values())
        for level in (0, PROCESS, REALTIME) if self.transactions.timed else (0, PROCESS):
            name = {
                0: "snapshot-isolation",
                PROCESS: "strong-session-snapshot-isolation",
                REALTIME: "strong-snapshot-isolation",
            }[level]
            if not search.core or not tails or name in ruled_out(self.views):
                continue
            fit = tails_fit(search, tails, level, self.expired)
            anomaly = "not-snapshot-isolated" + _SUFFIX[level]
            if fit is None:
                self.open[name] = "whether some order of the appends that nobody read satisfies it stayed open"
            elif not fit:
                core = set(search.core)
                few = sorted({node for tail in tails for node in tail if node in core})
                self.views[anomaly] = self._plainly(
                    anomaly, "whichever way the appends that nobody read are ordered, there is a cycle", few[:8]
                )

    def _quickly_serial(self, search: CycleSearch) -> bool:
        """A serial order that respects real time serves every model, and a store that works has one at hand."""
        if search.order is None or self.views or self.inference.doubts:
            return False
        level = REALTIME if self.transactions.timed else PROCESS
        self.serial = self.runs.run(level, snapshots=False, steps_max=STEPS_FIRST).order
        return self.serial is not None

    def _registers(self, model: str) -> None:
        """A register's versions are only partly ordered: look for a witness, or prove that there is none."""
        wanted = implied_levels(model)
        if wanted <= _SEARCH_FREE or model in ruled_out(self.views) or self.inference.doubts:
            return
        proofs = dict(_SEARCHES)
        if model == "repeatable-read":
            # Without predicates it asks for the same as serializable, save that a transaction may miss its own write
            # and read what that replaced: then such a read counts as if it came first.
            proofs["repeatable-read"] = (0, False, "not-repeatable")
            self.runs.every_read = True
        if model not in proofs:
            return
        for easier in ("strict-serializable", "strong-session-serializable", "serializable", model):
            level, snapshots, anomaly = proofs[easier]
            target = easier == model
            if not target and (model not in implied_levels(easier) or easier in ruled_out(self.views)):
                continue
            if level == REALTIME and not self.transactions.timed:
                continue
            found = self.runs.run(level, snapshots=snapshots, steps_max=_STEPS_MAX if target else STEPS_FIRST)
            if found.order is not None:
                self.serial = found.order if not snapshots else None
                return
            if found.proven and anomaly not in self.views:
                few = self.runs.fewest(level, snapshots=snapshots)
                self.views[anomaly] = self._plainly(
                    anomaly,
                    "no way to run these transactions explains what they read of one another; all were tried",
                    few,
                )
            if target:
                if not found.proven:
                    self.open[model] = "no execution that explains the reads was found, nor that there is none"
                return

    def _plainly(self, anomaly: str, summary: str, nodes: Sequence[int]) -> CycleView:
        lines = tuple(self.transactions.describe(node) for node in nodes)
        return CycleView(anomaly=anomaly, transactions=tuple(nodes), lines=lines, steps=(), summary=summary)

    def _verdict(self, model: str, asked: str) -> TransactionVerdict:
        history = self.transactions.history
        rank = {name: at for at, name in enumerate(ANOMALIES)}
        names = sorted(self.views, key=lambda name: (not self.views[name].steps, rank.get(name, 99)))
        out = ruled_out(names)
        not_, also_not = boundary(names)
        status, reason = Status.OK, ""
        witness: Callable[[], Sequence[int]] | None = None
        if model in out:
            blamed = [name for name in names if model in ruled_out([name])]
            names.sort(key=lambda name: name not in blamed)
            status, reason = Status.ILLEGAL, f"{', '.join(blamed)}: not {asked}"
        elif self.late:
            status, reason = Status.UNKNOWN, "out of time; no anomaly that rules it out was found until then"
        elif self.inference.doubts:
            status, reason = Status.UNKNOWN, self.inference.doubts[0]
        elif opened := next((why for name, why in self.open.items() if name in implied_levels(model)), None):
            status, reason = Status.UNKNOWN, opened
        elif not self.transactions.timed and model in _UNTIMED:
            status = Status.UNKNOWN
            reason = (
                f"the history does not say when anything was invoked, which {asked} is about; "
                f"{_UNTIMED[model]} holds"
            )
        else:
            witness = self._witness(model)
        return TransactionVerdict(
            status,
            history=history,
            model=asked,
            workload=self.workload,
            reason=reason,
            anomalies=names,
            views=[self.views[name] for name in names],
            not_=not_,
            also_not=also_not,
            part=self._part(
                status,
                f"{self.workload} dependency graph",
                "linear" if self.workload == "list-append" else "linear, then a search for a witness",
            ),
            witness=witness,
        )

    def _witness(self, model: str) -> Callable[[], Sequence[int]] | None:
        """A serial order, where the model is about one."""
        if model not in ("serializable", "strong-session-serializable", "strict-serializable"):
            return None
        order = self.serial if isinstance(self.inference, RegisterInference) else self.order
        if order is not None:
            return lambda: order
        return lambda: self.runs.topological(sessions=model == "strong-session-serializable")

    def _part(self, status: Status, algorithm: str, cost: str) -> Part:
        size = len(self.transactions)
        return Part(
            key=None,
            status=status,
            algorithm=algorithm,
            cost=cost,
            events_done=0 if self.late else size,
            events=size,
        )
