"""What an operator sees: counters and gauges of one `TwoPhaseCommit`."""

import threading
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

PREPARED_SECONDS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_BOUNDS = (*PREPARED_SECONDS_BUCKETS, float("inf"))


@dataclass
class Metrics:
    """Counts since the start; `in_doubt` and `oldest_s` are as the last recovery pass saw them, by participant."""

    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    """Votes "no" and lost votes, by participant."""
    batches: int = 0
    decisions: int = 0
    prepared_seconds: Counter[float] = field(default_factory=Counter)
    """Histogram of how long branches were prepared: upper bound of the bucket (inf: longer) -> transactions."""
    prepared_seconds_sum: float = 0.0
    in_doubt: dict[str, int] = field(default_factory=dict)
    oldest_s: dict[str, float] = field(default_factory=dict)
    recovered: Counter[str] = field(default_factory=Counter)
    """Branches finished by recovery: committed, rolled_back, heuristic."""
    heuristics: int = 0
    """What was finished against a decision and is not forgotten (`troth tx forget`), as the last pass saw."""
    passes: int = 0
    fenced: int = 0
    """Times that this coordinator's decision came too late."""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count_batch(self, size: int) -> None:
        self.batches += 1
        self.decisions += size

    def count_prepared(self, seconds: float) -> None:
        bound = _BOUNDS[bisect_left(PREPARED_SECONDS_BUCKETS, seconds)]
        with self.lock:
            self.prepared_seconds[bound] = self.prepared_seconds.get(bound, 0) + 1
            self.prepared_seconds_sum += seconds

    def text(self, name: str) -> str:
        """Prometheus text exposition; *name* becomes the label ``coordinator``."""
        lines: list[str] = []
        name = _escaped(name)

        def add(metric: str, kind: str, rows: list[tuple[str, float]]) -> None:
            full = f"troth_2pc_{metric}"
            lines.append(f"# TYPE {full} {kind}")
            lines.extend(f'{full}{{coordinator="{name}"{labels}}} {value:g}' for labels, value in rows)

        add("transactions_total", "counter", [(f',outcome="{k}"', v) for k, v in sorted(self.outcomes.items())])
        add(
            "refusals_total",
            "counter",
            [(f',participant="{_escaped(k)}"', v) for k, v in sorted(self.refusals.items())],
        )
        add("decision_batches_total", "counter", [("", self.batches)])
        add("decisions_total", "counter", [("", self.decisions)])
        add("in_doubt", "gauge", [(f',participant="{_escaped(k)}"', v) for k, v in sorted(self.in_doubt.items())])
        add(
            "in_doubt_oldest_seconds",
            "gauge",
            [(f',participant="{_escaped(k)}"', v) for k, v in sorted(self.oldest_s.items())],
        )
        add("heuristics", "gauge", [("", self.heuristics)])
        add("recovered_total", "counter", [(f',what="{k}"', v) for k, v in sorted(self.recovered.items())])
        add("recovery_passes_total", "counter", [("", self.passes)])
        add("fenced_total", "counter", [("", self.fenced)])
        total = 0
        rows: list[tuple[str, float]] = []
        for bound in _BOUNDS:
            total += self.prepared_seconds[bound]
            rows.append((f',le="{"+Inf" if bound == float("inf") else f"{bound:g}"}"', total))
        lines.append("# TYPE troth_2pc_prepared_seconds histogram")
        for labels, value in rows:
            lines.append(f'troth_2pc_prepared_seconds_bucket{{coordinator="{name}"{labels}}} {value:g}')
        lines.append(f'troth_2pc_prepared_seconds_sum{{coordinator="{name}"}} {self.prepared_seconds_sum:g}')
        lines.append(f'troth_2pc_prepared_seconds_count{{coordinator="{name}"}} {total:g}')
        return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    """*value* between the quotes of a label."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
