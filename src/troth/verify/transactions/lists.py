"""What lists that were read say of each other, and of the transactions that read and appended them.

The longest list read of a key orders all that anybody saw of it; every other must be how it begins. What contradicts
that, and what a transaction's own operations contradict, are findings. `append` makes edges of the orders.
"""

from collections import Counter
from itertools import pairwise
from typing import Final, TypeAlias

from troth.errors import UsageError
from troth.verify.history import Value, show
from troth.verify.transactions.micro import APPENDS, FAIL, INFO, OK, Findings, Transactions, name, show_list

NOBODY: Final = -1

List: TypeAlias = tuple[Value, ...]


class Lists:
    """What was appended and read.

    Attributes:
        committed: 1 for those that happened: ok, or info and seen.
        findings: anomalies without cycles.
        doubts: why an "ok" would be more than is known.
    """

    def __init__(self, transactions: Transactions) -> None:
        self.transactions = transactions
        self.findings = Findings()
        self.doubts: list[str] = []
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
                            value = as_list(value, node)
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
                found = () if value is None else as_list(value, node)
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


def _ends(value: List, tail: List) -> bool:
    return value[len(value) - len(tail) :] == tail


def as_list(value: Value, node: int) -> List:
    if isinstance(value, tuple):
        return value
    if isinstance(value, list):
        return tuple(value)
    raise UsageError(f"operation {node} read {show(value)[:60]}; in a list-append history reads return lists")
