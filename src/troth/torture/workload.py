"""What a workload is: clients that do something again and again, and claims about it that can be judged afterwards."""

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from troth.torture.record import Record
from troth.torture.system import TortureClient
from troth.verify.report.page import html
from troth.verify.verdict import Status, Verdict

CHECK_SECONDS_MAX: Final = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The verdict on one claim. `page`: where it is drawn, if it is."""

    claim: str
    status: Status
    sentence: str
    page: Path | None = None


class Workload(ABC):
    """Several workers call `step` again and again, each with a client of its own. `record` is its history."""

    name: str
    workers: int = 3

    def __init__(self, record: Record, seed: int) -> None:
        self.record = record
        self.rngs = [random.Random(f"{seed} {self.name} {worker}") for worker in range(self.workers)]

    async def prepare(self, client: TortureClient) -> None:  # noqa: B027 - few need it
        """Before any fault."""

    @abstractmethod
    async def step(self, client: TortureClient, worker: int) -> None:
        """One operation, or a few that belong together. Raises `Definite` or `Indefinite` when one does not succeed."""

    async def conclude(self, client: TortureClient) -> None:  # noqa: B027 - few need it
        """After all faults are healed: read everything."""

    @abstractmethod
    def findings(self) -> list[Finding]:
        """What came of it."""

    @property
    def operations(self) -> int:
        """How many operations have ended."""
        return self.record.ok + self.record.failed + self.record.unknown

    def judged(self, claim: str, judge: Callable[[Callable[[], bool]], Verdict], *, draw: bool) -> Finding:
        """What *judge* says of a *claim* about the history; it gives up when what it is handed says so."""
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


def compared(claim: str, wrong: list[str], right: str) -> Finding:
    """The verdict on a *claim* that was compared piece by piece: all that is *wrong*, or *right* if nothing is."""
    if not wrong:
        return Finding(claim=claim, status=Status.OK, sentence=right)
    more = f" (and {len(wrong) - 5} more)" if len(wrong) > 5 else ""
    return Finding(claim=claim, status=Status.ILLEGAL, sentence="; ".join(wrong[:5]) + more)
