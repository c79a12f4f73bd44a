"""Workloads that keep a ledger of their own, to compare with what is there: inserts, counters, transfers."""

from collections.abc import Mapping

from typing_extensions import override

from troth.torture.record import Record
from troth.torture.system import Definite, Indefinite, TortureClient
from troth.torture.workload import Finding, Workload, compared


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
            compared(
                "every acknowledged write is present",
                lost,
                f"{len(self._acknowledged)} acknowledged writes, all present; "
                f"{survived} of {len(self._unknown)} with an unknown outcome",
            ),
            compared(
                "no refused write is present",
                strange,
                f"{len(self._refused)} refused writes, none of them present",
            ),
            compared("nothing is applied twice", twice, f"{len(found)} keys, each written once"),
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
        return [compared("no write is applied twice, none is missing", wrong, right)]


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
        found = await self.record.operation("read", client.read(self._keys), result=_balances)
        balances = list(_balances(found).values())
        self._reads += 1
        if sum(balances) != self.ACCOUNTS * self.BALANCE or min(balances) < 0:
            self._wrong.append(f"a read saw {balances}, in all {sum(balances)}")

    @override
    async def conclude(self, client: TortureClient) -> None:
        await self._read_all(client)

    @override
    def findings(self) -> list[Finding]:
        right = f"{self._reads} reads saw {self.ACCOUNTS * self.BALANCE} in all, through {self._moves} transfers"
        return [compared("no reader sees a transfer half done", self._wrong, right)]


def _balances(found: Mapping[str, str | None]) -> dict[str, int]:
    return {key: int(balance or 0) for key, balance in found.items()}
