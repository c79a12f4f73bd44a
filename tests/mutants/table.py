"""``make mutants``: puts every known bug back, and writes who catches it into docs/verification.md.

Of each bug: the first named test that fails; the rule that the simulation breaks, searched for without any test; after
how many seeds; and what is left of that seed when it is made small. Takes an hour and more; `--cpu` bounds it.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paxos_pitfalls
import register_pitfalls
import servers
from pitfalls import PITFALLS, Pitfall, changed_source, path_of
from trial import ROOT, TESTS, Verdict, module_name, try_mutant

PAGE = ROOT / "docs" / "verification.md"
BEGIN, END = "<!-- mutants: written by `make mutants` -->", "<!-- end of mutants -->"

RARE = {
    "acknowledge the own last index": "a leader sends the first entry that may differ, so hardly any append that is "
    "accepted leaves an unverified tail behind it",
    "a restarted server forgets the memberships between the oldest and the newest": "all must crash between two "
    "messages of a change by which a leader that had joined removes itself (seed 10269 was found in a campaign)",
}
"""Why the simulation may take longer than its limit, where that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A list of known bugs, the tests that are about them, and the simulation that runs the code."""

    title: str
    pitfalls: tuple[Pitfall, ...]
    tests: tuple[str, ...]
    simulation: str


SUBJECTS = (
    Subject(title="Raft", pitfalls=PITFALLS, tests=TESTS, simulation="core"),
    Subject(
        title="Multi-Paxos",
        pitfalls=paxos_pitfalls.PAXOS_PITFALLS,
        tests=paxos_pitfalls.TESTS,
        simulation="paxos",
    ),
    Subject(
        title="Registers (CASPaxos)",
        pitfalls=register_pitfalls.REGISTER_PITFALLS,
        tests=register_pitfalls.TESTS,
        simulation="registers",
    ),
)

HEAD = (
    "| row | pitfall | met in | named test | simulation: rule | seeds | shrunk to |\n|---|---|---|---|---|---|---|"
)


def sources_of(pitfall: Pitfall) -> dict[str, str]:
    """The changed module."""
    if pitfall in PITFALLS:
        path = path_of(pitfall)
        return {module_name(path): changed_source(pitfall, (ROOT / path).read_text())}
    return {module_name(pitfall.file): changed_source(pitfall, (ROOT / pitfall.file).read_text())}


def rows_of(subject: Subject, options: argparse.Namespace) -> Iterator[tuple[str, Verdict, Verdict]]:
    """One row for each bug, with what the tests and the simulation said."""
    for pitfall in subject.pitfalls:
        if options.only not in pitfall.name:
            continue
        sources = sources_of(pitfall)
        by_test = try_mutant(sources, tests=subject.tests)
        by_seed = try_mutant(
            sources,
            tests=(),
            seeds=options.seeds,
            chaos_seconds=options.seconds,
            simulation=subject.simulation,
            cpu_seconds=options.cpu,
            shrink_seconds=options.shrink,
        )
        rule = by_seed.caught_by.removeprefix("simulation: ")
        if rule:
            seeds, small = str(by_seed.seeds), by_seed.shrunk or "-"
        else:
            rule = f"not found: {RARE[pitfall.name]}" if pitfall.name in RARE else "not found"
            seeds, small = f"> {by_seed.seeds or options.seeds}", "-"
        cells = (str(pitfall.row or "-"), pitfall.name, pitfall.found or "-", by_test.caught_by or "**nothing**")
        line = "| " + " | ".join((*cells, rule, seeds, small)) + " |"
        print(line, flush=True)
        yield line, by_test, by_seed


def core_part(options: argparse.Namespace) -> tuple[list[str], int]:
    """The tables of everything that has named tests; how many bugs nothing has caught."""
    lines: list[str] = []
    missed = 0
    for subject in SUBJECTS:
        if options.subject not in subject.title.lower():
            continue
        print(f"\n### {subject.title}\n\n{HEAD}", flush=True)
        verdicts = list(rows_of(subject, options))
        found = [by_seed for _, _, by_seed in verdicts if by_seed.caught_by]
        missed += sum(not by_test.caught_by and not by_seed.caught_by for _, by_test, by_seed in verdicts)
        named = sum(bool(by_test.caught_by) for _, by_test, _ in verdicts)
        middle = sorted(verdict.seeds for verdict in found)[len(found) // 2] if found else 0
        lines += [f"### {subject.title}", "", HEAD, *(line for line, _, _ in verdicts), ""]
        lines += [
            f"Of {len(verdicts)} bugs {named} fail a named test, and the simulation alone finds {len(found)} "
            f"(half of them within {middle} seeds of {options.seconds} s).",
            "",
        ]
    return lines, missed


def server_part(options: argparse.Namespace) -> tuple[list[str], int]:
    """Bugs of servers, storage and clients, which only the simulation of whole servers looks for."""
    head = "| row | pitfall | broken | seeds | shrunk to |\n|---|---|---|---|---|"
    print(f"\n### Servers, storage, clients\n\n{head}", flush=True)
    rows: list[str] = []
    missed = 0
    for pitfall in servers.SERVER_PITFALLS:
        if options.only not in pitfall.name:
            continue
        found = servers.find(pitfall, seeds=options.server_seeds, shrink_within_s=options.shrink)
        missed += not found.rule
        small = f"{found.faults} faults, {found.operations} operations" if found.rule else "-"
        rule = found.rule or "**not found**"
        rows.append(f"| {pitfall.row or '-'} | {pitfall.name} | {rule} | {found.seeds or '-'} | {small} |")
        print(rows[-1], flush=True)
    return ["### Servers, storage, clients", "", head, *rows, ""], missed


def write(page: Path, lines: list[str], command: str) -> None:
    """Put *lines* in place of what the last run wrote into *page*."""
    commit = subprocess.run(
        ("git", "rev-parse", "--short", "HEAD"), cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    said = f"Written by `{command}` at commit {commit or 'unknown'}."
    page.write_text("\n".join((before.rstrip(), "", BEGIN, "", said, "", *lines)).rstrip() + f"\n\n{END}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=8, help="of chaos a seed")
    parser.add_argument("--server-seeds", type=int, default=200)
    parser.add_argument("--cpu", type=int, default=150, help="CPU seconds for the seeds of one bug")
    parser.add_argument("--shrink", type=int, default=10, help="CPU seconds for making a red seed small")
    parser.add_argument("--only", default="", help="bugs with this in their name")
    parser.add_argument("--subject", default="", help="raft, multi-paxos, registers or servers; all if not given")
    parser.add_argument("--write", action="store_true", help="into docs/verification.md")
    options = parser.parse_args()
    lines, missed = core_part(options)
    if options.subject in "servers, storage, clients":
        more, unseen = server_part(options)
        lines, missed = lines + more, missed + unseen
    if options.write:
        write(PAGE, lines, "make mutants" + (f" ARGS='{' '.join(sys.argv[1:])}'" if sys.argv[2:] else ""))
    print(f"\n{missed} caught by nothing")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
