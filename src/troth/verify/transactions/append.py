"""list-append: transactions that append unique elements to lists and read whole lists.

A list that was read *is* the order of its versions: element i was appended to the list of the elements before it. The
longest list read of a key therefore orders all that anybody saw of it (Kingsbury & Alvaro 2020, section 4.2):

* ww from the appender of each element to that of the next;
* wr from the appender of the last element of a read list to the reader;
* rw from the reader of a list to the appender of the element that follows it in the longest one.

An element that was appended but never read comes after all that were read, for the longest list does not hold it: ww
from the last appender, rw from the readers of the longest list. How several such elements (a *tail*) follow each other
nobody knows.

Soundness. Every edge holds in all version orders that explain the reads, so a cycle is a cycle whatever the rest is.
Completeness, where reads are internally consistent and no finding was made: the elements of every key are ordered but
for its tail. Let the graph (with sessions and real time, as asked) have no cycle; execute transactions in any
topological order, tails as they come. A read of n elements comes after their appenders (ww, wr) and before the
appender of the next (rw, ww), so it returns what it did: the order is a witness of serializability. For models without
rw edges the same order gives version orders without cycles. Snapshot isolation alone can depend on how a tail is
ordered; `snapshot` settles that.

A key is left out when its reads contradict each other, or when one element was appended twice: with fewer edges a
violation can be missed but none invented, and a check that left out a doubtful key never says ok.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from troth.errors import UsageError
from troth.verify.history import Value, show
from troth.verify.transactions.graph import RW, WR, WW, Edges
from troth.verify.transactions.micro import APPENDS, FAIL, INFO, OK, Findings, Transactions, name, show_list

_TAIL_EDGES_MAX: Final = 8_000_000
NOBODY: Final = -1

List = tuple[Value, ...]


class AppendInference:
    """What list-append transactions tell about each other.

    Attributes:
        edges: dependencies between committed transactions.
        committed: 1 for those that happened: ok, or info and seen.
        findings: anomalies without cycles.
        doubts: why an "ok" would be more than is known.
        tails: by key, those committed transactions whose elements nobody read, two or more.
    """

    initial_name: Final = "the initial (nil) state"

    def __init__(self, transactions: Transactions) -> None:
        self.transactions = transactions
        self.findings = Findings()
        self.edges = Edges()
        self.doubts: list[str] = []
        self.tails: dict[Value, list[int]] = {}
        self.orders: dict[Value, List] = {}
        """key -> the longest list read, of keys whose reads agree"""
        self.writers: dict[Value, dict[Value, int]] = {}
        """key -> element -> who appended it (also who failed to)"""
        self.committed = bytearray(outcome == OK for outcome in transactions.outcomes)
        self.own_write_missed = False
        """whether somebody read a list without what it had just appended itself"""
        self._doubtful: dict[Value, None] = {}
        self._broken: set[Value] = set()
        self._several: dict[tuple[int, Value], None] = {}
        self._repeating: list[int] = []
        self._reads: dict[Value, tuple[list[int], list[List]]] = {}
        self._collect()
        for key, (readers, lists) in self._reads.items():
            if key not in self._doubtful:
                self._order(key, readers, lists)
        self._program_order()
        self._within_transactions()
        self._link()

    def _collect(self) -> None:
        """One pass over everything: who appended what, who read what."""
        writers, reads, doubtful = self.writers, self._reads, self._doubtful
        nil_unknown = self.transactions.history.reading.nil_read == "unknown"
        last: dict[Value, int] = {}
        for node, (micros, outcome) in enumerate(
            zip(self.transactions.micros, self.transactions.outcomes, strict=True)
        ):
            for f, key, value in micros:
                if f == "append":
                    mine = writers.get(key)
                    if mine is None:
                        mine = writers[key] = {}
                    if value in mine:
                        doubtful[key] = None
                    else:
                        mine[value] = node
                    if last.get(key) == node:
                        self._several[node, key] = None
                    last[key] = node
                elif outcome == OK:
                    if value.__class__ is not tuple:
                        if value is None:
                            if nil_unknown:
                                continue
                            value = ()
                        else:
                            value = _list(value, node)
                    entry = reads.get(key)
                    if entry is None:
                        entry = reads[key] = ([], [])
                    entry[0].append(node)
                    entry[1].append(value)
            if outcome == OK and len(micros) > 1 and len({micro[1] for micro in micros}) < len(micros):
                self._repeating.append(node)
        for key in doubtful:
            self.doubts.append(f"an element of {name(key)} was appended more than once, so that key says nothing")

    def _order(self, key: Value, readers: list[int], lists: list[List]) -> None:
        """Check the reads of one key against each other; without a contradiction the longest is the order."""
        longest = max(lists, key=len)
        writers = self.writers.get(key, {})
        outcomes = self.transactions.outcomes
        place = {element: at for at, element in enumerate(longest)}
        agreed = len(place) == len(longest)
        if agreed:
            for value in lists:
                if value is not longest and longest[: len(value)] != value:
                    agreed = False
                    break
        if not agreed:
            self._broken.add(key)
            self._contradiction(key, readers, lists, longest)
            return
        self.orders[key] = longest
        previous = NOBODY
        for at, element in enumerate(longest):
            writer = writers.get(element, NOBODY)
            if writer == NOBODY or outcomes[writer] == FAIL:
                for reader, value in zip(readers, lists, strict=True):
                    if len(value) > at:
                        self._aborted(key, element, writer, reader)
            else:
                if outcomes[writer] == INFO:
                    self.committed[writer] = 1
                if previous >= 0 and outcomes[previous] == FAIL and outcomes[writer] == OK:
                    self.findings.add(
                        "dirty-update",
                        (previous, writer),
                        f"{{1}} appended {show(element)} to {name(key)} after an element of {{0}}, which failed",
                    )
            # A crashed appender in between does not clear what it was built upon.
            if previous < 0 or writer < 0 or not (outcomes[previous] == FAIL and outcomes[writer] == INFO):
                previous = writer

    def _contradiction(self, key: Value, readers: list[int], lists: list[List], longest: List) -> None:
        writers, outcomes = self.writers.get(key, {}), self.transactions.outcomes
        for reader, value in zip(readers, lists, strict=True):
            if len(set(value)) < len(value):
                twice = next(element for element, times in Counter(value).items() if times > 1)
                self.findings.add(
                    "duplicate-elements",
                    (reader,),
                    f"{{0}} read {name(key)} = {show_list(value)}, which holds {show(twice)} more than once",
                )
            for element in dict.fromkeys(value):
                writer = writers.get(element, NOBODY)
                if writer == NOBODY or outcomes[writer] == FAIL:
                    self._aborted(key, element, writer, reader)
                else:
                    self.committed[writer] = 1
        by_length = sorted(zip(lists, readers, strict=True), key=lambda pair: len(pair[0]))
        for (shorter, first), (longer, second) in pairwise(by_length):
            if longer[: len(shorter)] != shorter:
                self.findings.add(
                    "incompatible-order",
                    (first, second),
                    f"{{0}} read {name(key)} = {show_list(shorter)}, {{1}} read {show_list(longer)}, which does not "
                    f"begin with that",
                )

    def _aborted(self, key: Value, element: Value, writer: int, reader: int) -> None:
        if writer == NOBODY:
            self.findings.add(
                "thin-air-read", (reader,), f"{{0}} read {show(element)} in {name(key)}, which nobody appended"
            )
        else:
            self.findings.add(
                "G1a",
                (reader, writer),
                f"{{0}} read {show(element)} in {name(key)}, which {{1}} appended, which failed",
            )

    def _program_order(self) -> None:
        """Transactions that append to one list several times: nobody else may see only some of it (G1b), and the list
        must hold their elements in their order."""
        outcomes = self.transactions.outcomes
        for node, key in self._several:
            if key in self._doubtful or outcomes[node] == FAIL:
                continue
            elements = [e for f, k, e in self.transactions.micros[node] if f == "append" and k == key]
            readers, lists = self._reads.get(key, ([], []))
            early = set(elements[:-1])
            for reader, value in zip(readers, lists, strict=True):
                if value and value[-1] in early and reader != node:
                    self.findings.add(
                        "G1b",
                        (reader, node),
                        f"{{0}} read {name(key)} = {show_list(value)}, which {{1}} had not finished",
                    )
            if key in self._broken or not self.committed[node]:
                continue
            place = {element: at for at, element in enumerate(self.orders.get(key, ()))}
            unseen = len(place)
            places = [place.get(element, unseen) for element in elements]
            if places != sorted(places):
                self.findings.add(
                    "cyclic-versions",
                    (node,),
                    f"{{0}} appended {show(tuple(elements))} to {name(key)} in that order, but the list read is "
                    f"{show_list(self.orders.get(key, ()))}",
                )

    def _within_transactions(self) -> None:
        """What a transaction reads must agree with what it read and appended before."""
        collisions: dict[tuple[Value, List], list[int]] = {}
        for node in self._repeating:
            known: dict[Value, tuple[bool, List]] = {}
            first: dict[Value, List | None] = {}
            reads: list[tuple[Value, List]] = []
            for at, (f, key, value) in enumerate(self.transactions.micros[node]):
                if f in APPENDS:
                    complete, state = known.get(key, (False, ()))
                    known[key] = (complete, (*state, value))
                    read = first.get(key)
                    if read is not None and key not in self._doubtful:
                        collisions.setdefault((key, read), []).append(node)
                    first[key] = None
                    for seen_key, seen in reads:
                        if seen_key == key and value in seen and key not in self._doubtful:
                            self.findings.add(
                                "future-read",
                                (node,),
                                f"{{0}} read {show(value)} in {name(key)} before appending it itself",
                            )
                            break
                    continue
                if value is None and self.transactions.history.reading.nil_read == "unknown":
                    continue
                found = () if value is None else _list(value, node)
                if key in known:
                    complete, state = known[key]
                    fits = found == state if complete else len(found) >= len(state) and _ends(found, state)
                    if not fits:
                        mine = {e for g, k, e in self.transactions.micros[node][:at] if g in APPENDS and k == key}
                        self.own_write_missed = self.own_write_missed or not mine <= {*found}
                        expected = show_list(state) if complete else f"[... {show(state)[1:]}"
                        self.findings.add(
                            "internal",
                            (node,),
                            f"{{0}} read {name(key)} = {show_list(found)}, but expected {expected} from its own "
                            f"earlier operations",
                        )
                known[key] = (True, found)
                first.setdefault(key, found)
                reads.append((key, found))
        for (key, value), nodes in collisions.items():
            if len(nodes) > 1:
                self.findings.add(
                    "lost-update",
                    nodes[:3],
                    f"{{0}} and {{1}} both read {name(key)} = {show_list(value)} and then appended to it",
                )

    def _link(self) -> None:
        """Turn orders into edges."""
        outcomes, committed = self.transactions.outcomes, self.committed
        edges = self.edges
        tails: list[tuple[Value, list[int], list[int], int]] = []
        for key, writers in self.writers.items():
            order = self.orders.get(key, ())
            if key in self._doubtful or key in self._broken or len(order) == len(writers):
                continue
            seen = set(order)
            rest = list(
                dict.fromkeys(node for element, node in writers.items() if element not in seen and committed[node])
            )
            if len(rest) > 1:
                self.tails[key] = rest
            if rest:
                # Whoever appended the last element that counts, and all who read up to there.
                last = next(
                    (w for e in reversed(order) if (w := writers.get(e, NOBODY)) >= 0 and outcomes[w] != FAIL),
                    NOBODY,
                )
                tails.append((key, rest, [], last))
        readers_of_longest = {key: found for key, _, found, _ in tails}
        add_source, add_target = edges.run(WR)
        rw_sources: list[int] = []
        rw_targets: list[int] = []
        chains: list[list[int]] = []
        for key, order in self.orders.items():
            writers = self.writers.get(key, {})
            chain = [writers.get(element, NOBODY) for element in order]
            if -1 in chain or "G1a" in self.findings.by_anomaly:
                chain = [node if node >= 0 and outcomes[node] != FAIL else NOBODY for node in chain]
            chains.append(chain)
            following = [*chain, NOBODY]
            if NOBODY in chain:
                for at in range(len(chain) - 1, -1, -1):
                    if following[at] == NOBODY:
                        following[at] = following[at + 1]
            at_end = readers_of_longest.get(key)
            for reader, value in zip(*self._reads[key], strict=True):
                length = len(value)
                if length:
                    writer = chain[length - 1]
                    if writer >= 0:
                        add_source(writer)
                        add_target(reader)
                after = following[length]
                if after >= 0:
                    rw_sources.append(reader)
                    rw_targets.append(after)
                elif at_end is not None:
                    at_end.append(reader)
        add_source, add_target = edges.run(RW)
        for source in rw_sources:
            add_source(source)
        for target in rw_targets:
            add_target(target)
        budget = _TAIL_EDGES_MAX
        for key, rest, readers, _ in tails:
            budget -= len(rest) * len(readers)
            if budget < 0:
                self.doubts.append(f"too many appends to {name(key)} were never read")
                break
            for reader in readers:
                for node in rest:
                    add_source(reader)
                    add_target(node)
        add_source, add_target = edges.run(WW)
        for chain in chains:
            previous = NOBODY
            for node in chain:
                if node >= 0:
                    if previous >= 0:
                        add_source(previous)
                        add_target(node)
                    previous = node
        for _, rest, _, last in tails:
            if last >= 0:
                for node in rest:
                    add_source(last)
                    add_target(node)

    def external_reads(self, node: int) -> Sequence[tuple[Value, int]]:
        """What *node* saw of others, a key at most once: (key, last appender seen, or NOBODY for the initial state).

        Own elements at the end of a list are not others'. Keys left out, and what cannot be told, are not in it.
        """
        found: dict[Value, int] = {}
        for key, writer in self.all_reads(node):
            found.setdefault(key, writer)
        return tuple(found.items())

    def all_reads(self, node: int) -> Sequence[tuple[Value, int]]:
        """The same for all its reads in their order, repeated ones included."""
        if self.transactions.outcomes[node] != OK:
            return ()
        found: list[tuple[Value, int]] = []
        for f, key, value in self.transactions.micros[node]:
            if f in APPENDS or key not in self.orders:
                continue
            if value is None and self.transactions.history.reading.nil_read == "unknown":
                continue
            writers = self.writers.get(key, {})
            at = 0 if value is None else len(_list(value, node))
            order = self.orders[key]
            while at and writers.get(order[at - 1]) == node:
                at -= 1
            while at and (
                order[at - 1] not in writers or self.transactions.outcomes[writers[order[at - 1]]] == FAIL
            ):
                at -= 1
            found.append((key, writers[order[at - 1]] if at else NOBODY))
        return found

    def keys_written(self, node: int) -> Sequence[Value]:
        """The keys that *node* appended to, each once, but for those left out."""
        return tuple(
            dict.fromkeys(
                key
                for f, key, _ in self.transactions.micros[node]
                if f in APPENDS and key not in self._doubtful and key not in self._broken
            )
        )

    def explain(self, kind: int, source: int, target: int) -> tuple[str, str]:
        """(the key, why *source* comes before *target*) for an edge; in the sentence {0} and {1} are the two."""
        micros = self.transactions.micros
        if kind == WR:
            for f, key, value in micros[target]:
                if f not in APPENDS and value and key in self.orders:
                    element = _list(value, target)[-1]
                    if self.writers.get(key, {}).get(element) == source:
                        return name(key), f"{{1}} observed {{0}}'s append of {show(element)} to key {name(key)}"
        for f, key, element in micros[target]:
            if f not in APPENDS or key not in self.orders:
                continue
            order = self.orders.get(key, ())
            at = order.index(element) if element in order else len(order)
            if kind == WW:
                for earlier in reversed(order[:at]):
                    writer = self.writers[key].get(earlier, NOBODY)
                    if writer == source:
                        why = f"{{1}} appended {show(element)} after {{0}} appended {show(earlier)} to {name(key)}"
                        return name(key), why
                    if writer >= 0 and self.transactions.outcomes[writer] != FAIL:
                        break
            elif kind == RW:
                for g, other, value in micros[source]:
                    length = 0 if value is None else len(_list(value, source)) if g not in APPENDS else at + 1
                    if g in APPENDS or other != key or length > at:
                        continue
                    if not length:
                        return name(key), (
                            f"{{0}} observed the initial (nil) state of {name(key)}, which {{1}} "
                            f"changed by appending {show(element)}"
                        )
                    return name(key), f"{{0}} did not observe {{1}}'s append of {show(element)} to {name(key)}"
        return "", "{1} follows {0}"


def _ends(value: List, tail: List) -> bool:
    return value[len(value) - len(tail) :] == tail


def _list(value: Value, node: int) -> List:
    if isinstance(value, tuple):
        return value
    if isinstance(value, list):
        return tuple(value)
    raise UsageError(f"operation {node} read {show(value)[:60]}; in a list-append history reads return lists")
