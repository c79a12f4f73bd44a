"""What clients do while a system is tortured, and what must be true of it afterwards.

========== ===================================================================================================
registers   put, get and compare-and-set of a few keys; the history is linearizable, key by key
inserts     keys that are written once; all acknowledged ones are there at the end, no refused one is
counters    writes of one key by one client, counted by the system; none was applied twice, none is missing
appends     transactions that read lists and append to one; the history is strictly serializable
transfers   money between accounts; no reader ever sees another sum
========== ===================================================================================================

Each ends with a read of all that it has touched, by a client that was not there, so that a lost write is seen even if
no client read it in the meantime.
"""

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from typing_extensions import override

from troth.torture.record import Record
from troth.torture.system import Definite, Indefinite, TortureClient
from troth.verify.check import check
from troth.verify.formats.read import read_history
from troth.verify.report.page import html
from troth.verify.transactions import check_transactions
from troth.verify.verdict import Status, Verdict

CHECK_SECONDS_MAX: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The verdict on one claim. `page`: where it is drawn, if it is."""

    claim: str
    status: Status
    sentence: str
    page: Path | None = None


class Workload:
    """Several workers call `step` again and again, each with a client of its own. `record` is its history."""

    name: str
    workers: int = 3

    def __init__(self, record: Record, seed: int) -> None:
        self.record = record
        self.rngs = [random.Random(f"{seed} {self.name} {worker}") for worker in range(self.workers)]

    async def prepare(self, client: TortureClient) -> None:
        """Before any fault."""

    async def step(self, client: TortureClient, worker: int) -> None:
        """One operation, or a few that belong together. Raises `Definite` or `Indefinite` when one does not succeed."""
        raise NotImplementedError

    async def conclude(self, client: TortureClient) -> None:
        """After all faults are healed: read everything."""

    def findings(self) -> list[Finding]:
        """What came of it."""
        raise NotImplementedError

    @property
    def operations(self) -> int:
        """How many operations have ended."""
        return self.record.ok + self.record.failed + self.record.unknown

    def _judged(self, claim: str, judge: Callable[[Callable[[], bool]], Verdict], *, draw: bool) -> Finding:
        deadline_s = time.monotonic() + CHECK_SECONDS_MAX
        verdict = judge(lambda: time.monotonic() > deadline_s)
        lines = verdict.text().strip().splitlines()
        page = None
        if draw:
            page = self.record.path.with_suffix(".html")
            page.write_text(
                html(verdict, title=f"torture: {self.name}", command=f"troth verify {self.record.path}"),
                encoding="utf-8",
            )
        sentence = lines[0] if verdict.status is Status.OK else "\n".join(lines)
        return Finding(claim=claim, status=verdict.status, sentence=sentence, page=page)


def _finding(claim: str, wrong: list[str], right: str) -> Finding:
    if not wrong:
        return Finding(claim=claim, status=Status.OK, sentence=right)
    more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
    return Finding(claim=claim, status=Status.ILLEGAL, sentence="; ".join(wrong[:5]) + more)


class Registers(Workload):
    """Each key is used for a while, then another one: a checker's work grows with what one key has seen."""

    name = "registers"
    workers = 5
    KEYS = 4
    OPERATIONS_PER_KEY = 300

    def __init__(self, record: Record, seed: int) -> None:
        super().__init__(record, seed)
        self._counts = dict.fromkeys(range(self.KEYS), 0)
        self._epochs = dict.fromkeys(range(self.KEYS), 0)
        self._next = 0
        self._seen: dict[tuple[int, str], str | None] = {}

    def _key(self, rng: random.Random) -> str:
        place = rng.randrange(self.KEYS)
        self._counts[place] += 1
        if self._counts[place] > self.OPERATIONS_PER_KEY:
            self._counts[place] = 0
            self._epochs[place] += 1
        return f"registers/{place}.{self._epochs[place]}"

    @override
    async def step(self, client: TortureClient, worker: int) -> None:
        rng = self.rngs[worker]
        key = self._key(rng)
        self._next += 1
        value = str(self._next)
        kind = rng.random()
        if kind < 0.4:
            self._seen[worker, key] = await self.record.operation("get", client.get(key), key=key)
        elif kind < 0.7:
            await self.record.operation(
                "put", client.put(key, value), key=key, value=value, result=lambda _: value
            )
            self._seen[worker, key] = value
        else:
            expected = self._seen.get((worker, key))
            swapped = await self.record.operation(
                "cas",
                client.swap({key: expected}, {key: value}),
                key=key,
                value=[expected, value],
                # A comparison that did not hold is an observation as well.
                result=lambda held: [expected, value] if held else False,
            )
            if swapped:
                self._seen[worker, key] = value

    @override
    async def conclude(self, client: TortureClient) -> None:
        for place, epoch in self._epochs.items():
            for number in range(epoch + 1):
                key = f"registers/{place}.{number}"
                await self.record.operation("get", client.get(key), key=key)

    @override
    def findings(self) -> list[Finding]:
        history = read_history(self.record.path.read_bytes(), self.record.path.name)
        claim = "each key is linearizable"
        return [
            self._judged(claim, lambda expired: check(history, "linearizable", "kv", expired=expired), draw=True)
        ]


class Inserts(Workload):
    """Keys that nobody else writes, each once."""

    name = "inserts"
    workers = 3

    def __init__(self, record: Record, seed: int) -> None:
        super().__init__(record, seed)
        self._acknowledged: dict[str, str] = {}
        self._refused: set[str] = set()
        self._unknown: dict[str, str] = {}
        self._found: dict[str, tuple[str, int]] = {}
        self._twice: list[str] = []
        self._counts = [0] * self.workers

    @override
    async def step(self, client: TortureClient, worker: int) -> None:
        self._counts[worker] += 1
        number = self._counts[worker]
        key, value = f"inserts/{worker}.{number:06d}", str(number)
        # Half of them only if the key is absent, which it is: a refusal would mean that an earlier attempt of the
        # same request had been applied.
        checked = number % 2 == 0
        doing = client.swap({key: None}, {key: value}) if checked else _always(client, key, value)
        try:
            held = await self.record.operation(
                "cas" if checked else "put", doing, key=key, value=[None, value] if checked else value
            )
        except Definite:
            self._refused.add(key)
            raise
        except Indefinite:
            self._unknown[key] = value
            raise
        if held:
            self._acknowledged[key] = value
        else:
            self._twice.append(f"{key} was absent, and the creation was refused as if it had been there")

    @override
    async def conclude(self, client: TortureClient) -> None:
        self._found = await client.scan("inserts/")

    @override
    def findings(self) -> list[Finding]:
        found = {key: value for key, (value, _) in self._found.items()}
        lost = [f"{key} is lost" for key, value in self._acknowledged.items() if found.get(key) != value]
        strange = [
            f"{key} is there"
            for key in found
            if key in self._refused or (key not in self._acknowledged and key not in self._unknown)
        ]
        twice = self._twice + [
            f"{key} was written {version} times" for key, (_, version) in self._found.items() if version != 1
        ]
        survived = sum(key in found for key in self._unknown)
        return [
            _finding(
                "every acknowledged write is present",
                lost,
                f"{len(self._acknowledged)} acknowledged writes, all present; "
                f"{survived} of {len(self._unknown)} with an unknown outcome",
            ),
            _finding(
                "no refused write is present",
                strange,
                f"{len(self._refused)} refused writes, none of them present",
            ),
            _finding("nothing is applied twice", twice, f"{len(found)} keys, each written once"),
        ]


async def _always(client: TortureClient, key: str, value: str) -> bool:
    await client.put(key, value)
    return True


class Counters(Workload):
    """One writer a key. The system counts the writes of a key; so does the writer."""

    name = "counters"
    workers = 3

    def __init__(self, record: Record, seed: int) -> None:
        super().__init__(record, seed)
        self._acknowledged = [0] * self.workers
        self._unknown = [0] * self.workers
        self._numbers = [0] * self.workers
        self._found: dict[str, tuple[str, int]] = {}

    @override
    async def step(self, client: TortureClient, worker: int) -> None:
        self._numbers[worker] += 1
        value = str(self._numbers[worker])
        key = f"counters/{worker}"
        try:
            await self.record.operation(
                "put", client.put(key, value), key=key, value=value, result=lambda _: value
            )
        except Indefinite:
            self._unknown[worker] += 1
            raise
        self._acknowledged[worker] += 1

    @override
    async def conclude(self, client: TortureClient) -> None:
        self._found = await client.scan("counters/")

    @override
    def findings(self) -> list[Finding]:
        wrong: list[str] = []
        for worker, (sure, perhaps) in enumerate(zip(self._acknowledged, self._unknown, strict=True)):
            _, counted = self._found.get(f"counters/{worker}", ("", 0))
            if not sure <= counted <= sure + perhaps:
                wrong.append(
                    f"counters/{worker} was written {counted} times; {sure} writes were acknowledged, "
                    f"the outcome of {perhaps} is unknown"
                )
        right = f"{sum(self._acknowledged)} writes of {self.workers} keys counted once each"
        return [_finding("no write is applied twice, none is missing", wrong, right)]


class Appends(Workload):
    """Lists as text, "1,2,3": read two of them at one instant, then append to one if neither has changed."""

    name = "appends"
    workers = 4
    KEYS = 3
    LENGTH_MAX = 60

    def __init__(self, record: Record, seed: int) -> None:
        super().__init__(record, seed)
        self._epochs = dict.fromkeys(range(self.KEYS), 0)
        self._next = 0

    @override
    async def step(self, client: TortureClient, worker: int) -> None:
        rng = self.rngs[worker]
        places = rng.sample(range(self.KEYS), 2)
        keys = [f"appends/{place}.{self._epochs[place]}" for place in places]
        found = await self.record.operation(
            "txn",
            client.read(keys),
            value=[["r", key, None] for key in keys],
            result=lambda answer: [["r", key, _as_list(answer[key])] for key in keys],
        )
        if rng.random() < 0.3:
            return
        self._next += 1
        number = self._next
        lists = {key: _as_list(found[key]) for key in keys}
        longer = [*lists[keys[0]], number]
        micros = [["r", keys[1], lists[keys[1]]], ["append", keys[0], number]]
        swap = client.swap(found, {keys[0]: ",".join(map(str, longer))})
        await self.record.operation("txn", _or_refused(swap), value=micros, result=lambda _: micros)
        if len(longer) >= self.LENGTH_MAX:
            self._epochs[places[0]] += 1

    @override
    async def conclude(self, client: TortureClient) -> None:
        for place, epoch in self._epochs.items():
            for number in range(epoch + 1):
                key = f"appends/{place}.{number}"
                await self.record.operation(
                    "txn",
                    client.read([key]),
                    value=[["r", key, None]],
                    result=lambda answer, key=key: [["r", key, _as_list(answer[key])]],  # type: ignore[misc]
                )

    @override
    def findings(self) -> list[Finding]:
        history = read_history(self.record.path.read_bytes(), self.record.path.name)
        claim = "transactions are strictly serializable"
        return [
            self._judged(
                claim,
                lambda expired: check_transactions(
                    history, workload="list-append", model="strict-serializable", expired=expired
                ),
                draw=False,
            )
        ]


def _as_list(text: str | None) -> list[int]:
    return [int(number) for number in text.split(",")] if text else []


async def _or_refused(swap: Awaitable[bool]) -> None:
    """A transaction whose comparison did not hold has definitely not happened."""
    if not await swap:
        raise Definite("the comparison did not hold")


class Transfers(Workload):
    """Accounts whose sum never changes."""

    name = "transfers"
    workers = 3
    ACCOUNTS = 6
    BALANCE = 100

    def __init__(self, record: Record, seed: int) -> None:
        super().__init__(record, seed)
        self._keys = [f"transfers/{number}" for number in range(self.ACCOUNTS)]
        self._wrong: list[str] = []
        self._reads = 0
        self._moves = 0

    @override
    async def prepare(self, client: TortureClient) -> None:
        await client.swap(dict.fromkeys(self._keys), dict.fromkeys(self._keys, str(self.BALANCE)))

    @override
    async def step(self, client: TortureClient, worker: int) -> None:
        rng = self.rngs[worker]
        if rng.random() < 0.4:
            await self._read_all(client)
            return
        source, target = rng.sample(self._keys, 2)
        found = await client.read([source, target])
        have = int(found[source] or 0)
        amount = rng.randint(1, 20)
        if amount > have:
            return
        wanted = {source: str(have - amount), target: str(int(found[target] or 0) + amount)}
        held = await self.record.operation(
            "transfer",
            client.swap(found, wanted),
            value=[source, target, amount],
            result=lambda held: [source, target, amount] if held else False,
        )
        self._moves += held

    async def _read_all(self, client: TortureClient) -> None:
        found = await self.record.operation("read", client.read(self._keys))
        balances = [int(found[key] or 0) for key in self._keys]
        self._reads += 1
        if sum(balances) != self.ACCOUNTS * self.BALANCE or min(balances) < 0:
            self._wrong.append(f"a read saw {balances}, in all {sum(balances)}")

    @override
    async def conclude(self, client: TortureClient) -> None:
        await self._read_all(client)

    @override
    def findings(self) -> list[Finding]:
        right = f"{self._reads} reads saw {self.ACCOUNTS * self.BALANCE} in all, through {self._moves} transfers"
        return [_finding("no reader sees a transfer half done", self._wrong, right)]


WORKLOADS: Final[dict[str, type[Workload]]] = {
    workload.name: workload for workload in (Registers, Inserts, Counters, Appends, Transfers)
}
