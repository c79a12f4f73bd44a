"""The measured part of docs/choosing.md, out of what the benchmarks have left in benchmarks/results (`make docs`)."""

import json
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "choosing.md"
BEGIN = "<!-- figures: what a choice costs -->\n"
END = "<!-- figures: end of what a choice costs -->\n"
HEAD = ("", "one at a time, p50", "a second, 64 outstanding", "gap: a server killed", "gap: silent", "measured by")


def newest(pattern: str) -> dict[str, Any]:
    """What a benchmark's last run found; the names of dated files sort by their dates."""
    return json.loads(max((ROOT / "benchmarks" / "results").glob(pattern)).read_text())


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def ms(value: float) -> str:
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def of_cluster() -> list[str]:
    found = newest("cluster-*.json")
    rates, source = found["rates"]["troth"], f"`make bench` at {found['commit'][:7]}"
    gaps = [ms(1000 * found["failover"]["troth"][kind]["load_s_median"]) for kind in ("SIGKILL", "SIGSTOP")]
    named = {"put": "put, Raft", "get": "`linearizable` get", "stale_get": "`eventual` get"}
    return [
        row(
            name,
            ms(rates[kind]["1"]["latency_ms_p50"]),
            f"{rates[kind]['64']['per_second']:,.0f}",
            *(gaps if kind != "stale_get" else ("any other answers", "the same")),
            source,
        )
        for kind, name in named.items()
    ]


def of_engines() -> str:
    found = newest("engines.json")
    rates, gaps = found["rates"]["paxos"], found["failover"]["paxos"]
    return row(
        "put, Multi-Paxos",
        ms(rates["1"]["p50_ms"]),
        f"{rates['64']['puts_per_second']:,.0f}",
        *(ms(1000 * gaps[f"gap_s_{kind}"]) for kind in ("SIGKILL", "SIGSTOP")),
        f"`make bench-engines` at {found['machine']['commit'][:7]}",
    )


def of_registers() -> str:
    found = newest("paxos-*.json")
    gap = median(each["a server dies"]["gap_ms"] for each in found["gaps"]["registers"])
    return row(
        "put, `PaxosClient`",
        ms(found["latency"]["registers"]["p50_ms"]),
        "-",
        ms(gap),
        "-",
        f"`make bench-paxos` at {found['commit'][:7]}",
    )


def of_transactions() -> list[str]:
    found = newest("2pc.json")
    alone, many = (found["disks"]["this disk"][clients] for clients in ("1", "32"))
    source = f"`make bench-2pc` at {found['commit'][:7]}"
    return [
        row(
            name,
            ms(alone[kind]["p50_ms"]),
            f"{many[kind]['tps']:,.0f} (32 clients)",
            "waits for it",
            "the same",
            source,
        )
        for kind, name in (
            ("unsafe", "two commits without troth"),
            ("troth", "`TwoPhaseCommit` over two PostgreSQL"),
        )
    ]


def of_hashing() -> str:
    found = newest("hashing.json")
    one, batch = (found["figures"][f"100: {kind}, str keys"]["troth"] for kind in ("single", "batch"))
    source = f"`make bench-hashing` at {found['commit'][:7]}"
    return row(
        "`HashRing.node`, 100 nodes", f"{1e6 / one:.2f} us", f"{batch:,.0f} (a batch)", "none", "none", source
    )


def table() -> str:
    rows = [*of_cluster(), of_engines(), of_registers(), *of_transactions(), of_hashing()]
    return "\n".join([row(*HEAD), row(*("---" for _ in HEAD)), *rows]) + "\n"


def written(page: str) -> str:
    """The page with its figures as the newest results have them."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
