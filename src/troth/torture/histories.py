"""Workloads whose whole history is judged by a checker: registers, and lists that transactions append to."""

import random
from collections.abc import Awaitable

from typing_extensions import override

from troth.torture.record import Record
from troth.torture.system import Definite, TortureClient
from troth.torture.workload import Finding, Workload
from troth.verify.check import check
from troth.verify.formats.read import read_history
from troth.verify.transactions import check_transactions


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
            self.judged(claim, lambda expired: check(history, "linearizable", "kv", expired=expired), draw=True)
        ]


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
            self.judged(
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
