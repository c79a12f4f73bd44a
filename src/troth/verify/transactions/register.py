"""rw-register: transactions that write unique values to registers and read them.

A read names the transaction whose version it saw (wr), but nothing shows the order of two versions by itself. What can
be known (Kingsbury & Alvaro 2020, section 5):

* the initial version comes before all others: rw from those who read it to all who write the key;
* a transaction that read a version and then wrote the key replaced a version at or after that one: rw from others who
  read it too. (The ww edge would only repeat the wr edge. Were the order the other way round, ww and wr would make a
  G1c, so every model that looks at rw edges is ruled out in both cases.)
* with `RegisterAssumptions`: versions of one key follow each other as the transactions of a process do
  (sequential keys), or as transactions in real time do (linearizable keys), or as written within a transaction.

Soundness: as above, every edge holds in all version orders by which a model with rw edges could be satisfied.
Completeness does not follow: no cycle is no proof. Read committed, read atomic and causal are decided exactly all the
same (see `weak`; any order of commits without cycles orders the versions). For the models with rw edges `serial`
searches for a witness, and the verdict is unknown if it neither finds one nor exhausts all ways.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from msgspec import Struct

from troth.verify.history import FOREVER, Value, show
from troth.verify.transactions.graph import RW, WR, WW, Edges
from troth.verify.transactions.micro import FAIL, INFO, OK, WRITES, Findings, Micro, Transactions, name

_EDGES_MAX: Final = 4_000_000
INITIAL: Final = -1
NOBODY: Final = -2


class RegisterAssumptions(Struct, frozen=True, kw_only=True):
    """What is known of the store besides the history; each gives more order between versions of one key, as in Elle.

    writes_follow_reads: a transaction that reads a key and then writes it replaces the version it read.
    sequential_keys: every process sees each key's versions in order.
    linearizable_keys: so does real time.

    Anomalies that rest on an assumption rule models out only as far as the assumption is true.
    """

    writes_follow_reads: bool = False
    sequential_keys: bool = False
    linearizable_keys: bool = False


class RegisterInference:
    """What rw-register transactions tell about each other; attributes as those of `AppendInference`."""

    def __init__(self, transactions: Transactions, assume: RegisterAssumptions) -> None:
        self.transactions, self.assume = transactions, assume
        self.findings = Findings()
        self.edges = Edges()
        self.doubts: list[str] = []
        self.committed = bytearray(outcome == OK for outcome in transactions.outcomes)
        self.initial = transactions.history.reading.initial
        self.writers: dict[Value, dict[Value, int]] = {}
        self.versions: dict[Value, dict[Value, dict[Value, None]]] = {}
        """key -> version -> versions known to come right after it, by assumption"""
        self._doubtful: dict[Value, None] = {}
        self._early: dict[Value, set[Value]] = {}
        """key -> values that were overwritten by the transaction that wrote them"""
        self.own_write_missed = False
        """whether somebody read something else than it had just written itself"""
        self._nil_unknown = transactions.history.reading.nil_read == "unknown"
        self._first_reads: list[dict[Value, Value]] = []
        self._last_writes: list[dict[Value, Value]] = []
        self._collect()
        self._read_all()
        self._assumed_orders()
        self._link()

    def _collect(self) -> None:
        for node, micros in enumerate(self.transactions.micros):
            mine: dict[Value, Value] = {}
            for f, key, value in micros:
                if f in WRITES:
                    writers = self.writers.setdefault(key, {})
                    if value in writers or value == self.initial:
                        self._doubtful[key] = None
                    else:
                        writers[value] = node
                    if key in mine:
                        self._early.setdefault(key, set()).add(mine[key])
                    mine[key] = value
            self._last_writes.append(mine)
        for key in self._doubtful:
            self.doubts.append(f"a value of {name(key)} was written more than once, so that key says nothing")

    def _read_all(self) -> None:
        """Reads against writes, and against what the same transaction did before."""
        outcomes, findings = self.transactions.outcomes, self.findings
        collisions: dict[tuple[Value, Value], list[int]] = {}
        for node, micros in enumerate(self.transactions.micros):
            first: dict[Value, Value] = {}
            self._first_reads.append(first)
            if outcomes[node] != OK:
                continue
            state: dict[Value, tuple[Value, bool]] = {}
            for at, (f, key, value) in enumerate(micros):
                if f in WRITES:
                    state[key] = (value, True)
                    continue
                if value is None and self._nil_unknown:
                    continue
                known = state.get(key)
                if known is None:
                    first[key] = value
                elif known[0] != value:
                    self.own_write_missed = self.own_write_missed or known[1]
                    whose = "own write of" if known[1] else "earlier read of"
                    findings.add(
                        "internal",
                        (node,),
                        f"{{0}} read {name(key)} = {show(value)} after its {whose} {show(known[0])}",
                    )
                    if (
                        not known[1]
                        and key not in self._doubtful
                        and node not in self._written_by(key, known[0], value)
                    ):
                        # Whichever version came first, it was replaced before the other was read: wr, ww and one rw.
                        findings.add(
                            "non-repeatable-read",
                            (node,),
                            f"{{0}} read {name(key)} = {show(known[0])} and then {show(value)}",
                        )
                state[key] = (value, known is not None and known[1] and known[0] == value)
                if key not in self._doubtful and value != self.initial:
                    self._judge(
                        node, key, value, micros[at:] if self.writers.get(key, {}).get(value) == node else ()
                    )
            for key, value in first.items():
                if key in self._last_writes[node] and key not in self._doubtful:
                    collisions.setdefault((key, value), []).append(node)
        for (key, value), nodes in collisions.items():
            if len(nodes) > 1:
                findings.add(
                    "lost-update",
                    nodes[:3],
                    f"{{0}} and {{1}} both read {name(key)} = {show(value)} and then wrote it",
                )

    def _written_by(self, key: Value, *values: Value) -> set[int]:
        writers = self.writers.get(key, {})
        return {writers[value] for value in values if value in writers}

    def _judge(self, node: int, key: Value, value: Value, later: Sequence[Micro]) -> None:
        writer = self.writers.get(key, {}).get(value, NOBODY)
        if writer == NOBODY:
            self.findings.add(
                "thin-air-read", (node,), f"{{0}} read {name(key)} = {show(value)}, which nobody wrote"
            )
        elif writer == node:
            if any(g in WRITES and (k, v) == (key, value) for g, k, v in later):
                self.findings.add(
                    "future-read", (node,), f"{{0}} read {name(key)} = {show(value)} before writing it itself"
                )
        elif self.transactions.outcomes[writer] == FAIL:
            self.findings.add(
                "G1a",
                (node, writer),
                f"{{0}} read {name(key)} = {show(value)}, which {{1}} wrote, which failed",
            )
        else:
            if self.transactions.outcomes[writer] == INFO:
                self.committed[writer] = 1
            if value in self._early.get(key, ()):
                self.findings.add(
                    "G1b",
                    (node, writer),
                    f"{{0}} read {name(key)} = {show(value)}, which {{1}} itself overwrote",
                )

    def _assumed_orders(self) -> None:
        """Versions in the order that the assumptions give, a key at a time; a contradiction discards it."""
        assume = self.assume
        sources: list[tuple[str, Callable[[Value, list[int]], Iterable[tuple[Value, Value]]]]] = []
        if assume.writes_follow_reads:
            sources.append(("writes follow reads", self._following))
        if assume.sequential_keys:
            sources.append(("every process sees a key's versions in order", self._by_process))
        if assume.linearizable_keys:
            sources.append(("real time orders a key's versions", self._by_time))
        if not sources:
            return
        touching: dict[Value, list[int]] = {}
        for node, happened in enumerate(self.committed):
            if happened:
                for key in {**self._first_reads[node], **self._last_writes[node]}:
                    touching.setdefault(key, []).append(node)
        for key, nodes in touching.items():
            if key in self._doubtful:
                continue
            order: dict[Value, dict[Value, None]] = {}
            for why, source in sources:
                wider = {version: dict(after) for version, after in order.items()}
                for before, after in source(key, nodes):
                    if before != after:
                        wider.setdefault(before, {})[after] = None
                cycle = _version_cycle(wider, self.initial)
                if cycle is None:
                    order = wider
                    continue
                involved = [self.writers.get(key, {}).get(version, NOBODY) for version in cycle]
                self.findings.add(
                    "cyclic-versions",
                    dict.fromkeys(node for node in involved if node >= 0),
                    f"versions of {name(key)} would follow each other in a circle: "
                    f"{' < '.join(show(version) for version in [*cycle, cycle[0]])} ({why})",
                )
            if order:
                self.versions[key] = order

    def _following(self, key: Value, nodes: list[int]) -> Iterable[tuple[Value, Value]]:
        for node in nodes:
            if key in self._first_reads[node] and key in self._last_writes[node]:
                yield self._first_reads[node][key], self._last_writes[node][key]

    def _ends(self, key: Value, node: int) -> tuple[Value, Value]:
        """The first and the last version of *key* that *node* had to do with."""
        reads, writes = self._first_reads[node], self._last_writes[node]
        return (reads[key] if key in reads else writes[key]), (writes[key] if key in writes else reads[key])

    def _by_process(self, key: Value, nodes: list[int]) -> Iterable[tuple[Value, Value]]:
        last: dict[int, Value] = {}
        for node in nodes:
            session = self.transactions.sessions[node]
            begin, end = self._ends(key, node)
            if session in last:
                yield last[session], begin
            if self.transactions.outcomes[node] == OK:
                last[session] = end

    def _by_time(self, key: Value, nodes: list[int]) -> Iterable[tuple[Value, Value]]:
        """From everybody who completed last before a transaction to it: the frontier of completions."""
        if not self.transactions.timed:
            return
        invoked, completed = self.transactions.invoked, self.transactions.completed
        events = [(invoked[node], 0, node) for node in nodes]
        events += [(completed[node], 1, node) for node in nodes if completed[node] < FOREVER]
        frontier: dict[int, None] = {}
        for _, is_end, node in sorted(events):
            if not is_end:
                for before in frontier:
                    yield self._ends(key, before)[1], self._ends(key, node)[0]
            else:
                # What completed before this one began is implied by it from now on.
                frontier = {other: None for other in frontier if completed[other] >= invoked[node]}
                frontier[node] = None

    def _link(self) -> None:
        committed = self.committed
        readers: dict[Value, dict[Value, list[int]]] = {}
        add_source, add_target = self.edges.run(WR)
        for node, micros in enumerate(self.transactions.micros):
            if self.transactions.outcomes[node] != OK:
                continue
            for key, value in dict.fromkeys((key, value) for f, key, value in micros if f not in WRITES):
                if key in self._doubtful or (value is None and self._nil_unknown):
                    continue
                writer = self.writers.get(key, {}).get(value, NOBODY)
                if writer != node:
                    # Its own writes aside, every read is an observation of a version.
                    readers.setdefault(key, {}).setdefault(value, []).append(node)
                if writer >= 0 and committed[writer]:
                    add_source(writer)
                    add_target(node)
        add_source, add_target = self.edges.run(RW)
        budget = _EDGES_MAX
        for key, by_value in readers.items():
            writers = self.writers.get(key, {})
            final = {node: value for value, node in writers.items() if committed[node]}
            followers: dict[Value, list[int]] = {self.initial: list(final)}
            for node in final:
                if key in self._first_reads[node]:
                    followers.setdefault(self._first_reads[node][key], []).append(node)
            for before, after in self.versions.get(key, {}).items():
                followers.setdefault(before, []).extend(
                    node for value in after if (node := writers.get(value, NOBODY)) >= 0 and committed[node]
                )
            for value, later in followers.items():
                mine = by_value.get(value, ())
                budget -= len(mine) * len(later)
                if budget < 0:
                    break
                for reader in mine:
                    for node in dict.fromkeys(later):
                        add_source(reader)
                        add_target(node)
        add_source, add_target = self.edges.run(WW)
        for key, order in self.versions.items():
            writers = self.writers.get(key, {})
            for before, after in order.items():
                source = writers.get(before, NOBODY)
                if source < 0 or not committed[source]:
                    continue
                for value in after:
                    target = writers.get(value, NOBODY)
                    if target >= 0 and committed[target]:
                        add_source(source)
                        add_target(target)

    def external_reads(self, node: int) -> Sequence[tuple[Value, int]]:
        """(key, writer, or INITIAL) of the first read of every key, unless the transaction had written it before."""
        return self._sources(self._first_reads[node].items())

    def all_reads(self, node: int) -> Sequence[tuple[Value, int]]:
        """The same for all reads of others' versions, in their order, repeated ones included."""
        if self.transactions.outcomes[node] != OK:
            return ()
        return self._sources(
            (key, value)
            for f, key, value in self.transactions.micros[node]
            if f not in WRITES
            and not (value is None and self._nil_unknown)
            and self.writers.get(key, {}).get(value, NOBODY) != node
        )

    def _sources(self, reads: Iterable[tuple[Value, Value]]) -> Sequence[tuple[Value, int]]:
        found = []
        for key, value in reads:
            if key in self._doubtful:
                continue
            writer = INITIAL if value == self.initial else self.writers.get(key, {}).get(value, NOBODY)
            if writer != NOBODY:
                found.append((key, writer))
        return found

    def keys_written(self, node: int) -> Sequence[Value]:
        """The keys that *node* wrote, each once, but for those left out."""
        return tuple(key for key in self._last_writes[node] if key not in self._doubtful)

    def explain(self, kind: int, source: int, target: int) -> tuple[str, str]:
        """(the key, why *source* comes before *target*) for an edge; in the sentence {0} and {1} are the two."""
        for f, key, value in self.transactions.micros[target]:
            if key in self._doubtful:
                continue
            if kind == WR and f not in WRITES and self.writers.get(key, {}).get(value) == source:
                return name(key), f"{{0}} wrote {name(key)} = {show(value)}, which was read by {{1}}"
            if kind == WW and f in WRITES and key in self._last_writes[source]:
                before = self._last_writes[source][key]
                if value in self.versions.get(key, {}).get(before, ()):
                    return name(key), (
                        f"{{0}} set key {name(key)} to {show(before)}, and {{1}} set it to {show(value)}, which came "
                        f"later in the version order"
                    )
            if kind == RW and f in WRITES:
                for g, other, seen in self.transactions.micros[source]:
                    if g in WRITES or other != key:
                        continue
                    if seen == self.initial:
                        why = f"{{0}} read the initial value of {name(key)}, which {{1}} overwrote with {show(value)}"
                        return name(key), why
                    replaced = self._first_reads[target].get(key) if key in self._first_reads[target] else NOBODY
                    if seen == replaced or value in self.versions.get(key, {}).get(seen, ()):
                        return name(key), (
                            f"{{0}} read {name(key)} = {show(seen)}, and {{1}} set it to {show(value)}, which came "
                            f"later in the version order"
                        )
        return "", "{1} follows {0}"


def _version_cycle(order: dict[Value, dict[Value, None]], initial: Value) -> list[Value] | None:
    """Versions that follow each other in a circle; an order in which something precedes the initial one is one too."""
    for before, after in order.items():
        if initial in after:
            return [initial, before]
    state: dict[Value, int] = {}
    for root in order:
        if root in state:
            continue
        path = [root]
        pending = [iter(order.get(root, ()))]
        state[root] = 1
        while path:
            for version in pending[-1]:
                if state.get(version) == 1:
                    return path[path.index(version) :]
                if version not in state:
                    state[version] = 1
                    path.append(version)
                    pending.append(iter(order.get(version, ())))
                    break
            else:
                state[path.pop()] = 2
                pending.pop()
    return None
