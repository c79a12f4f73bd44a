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

from collections.abc import Sequence
from typing import Final

from troth.verify.history import Value, show
from troth.verify.transactions.graph import RW, WR, WW, Edges
from troth.verify.transactions.lists import NOBODY, Lists, as_list
from troth.verify.transactions.micro import APPENDS, FAIL, OK, Transactions, name

_TAIL_EDGES_MAX: Final = 8_000_000


class AppendInference(Lists):
    """What list-append transactions tell about each other.

    Attributes:
        edges: dependencies between committed transactions.
        tails: by key, those committed transactions whose elements nobody read, two or more.
    """

    initial_name: Final = "the initial (nil) state"

    def __init__(self, transactions: Transactions) -> None:
        super().__init__(transactions)
        self.edges = Edges()
        self.tails: dict[Value, list[int]] = {}
        self._link()

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
            at = 0 if value is None else len(as_list(value, node))
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
                    element = as_list(value, target)[-1]
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
                    length = 0 if value is None else len(as_list(value, source)) if g not in APPENDS else at + 1
                    if g in APPENDS or other != key or length > at:
                        continue
                    if not length:
                        return name(key), (
                            f"{{0}} observed the initial (nil) state of {name(key)}, which {{1}} "
                            f"changed by appending {show(element)}"
                        )
                    return name(key), f"{{0}} did not observe {{1}}'s append of {show(element)} to {name(key)}"
        return "", "{1} follows {0}"
