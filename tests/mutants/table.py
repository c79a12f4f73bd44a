"""``make mutants``: puts every known bug back, and writes who catches it into docs/verification.md.

Of each bug: the first named test that fails; the rule that the simulation breaks, searched for without any test; after
how many seeds; and what is left of that seed when it is made small. Takes an hour and more; `--cpu` bounds it.
"""

import argparse
import importlib
import math
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import paxos_pitfalls
import planted
import register_pitfalls
import survivors
import twophase
import worlds
from pitfalls import PITFALLS, Pitfall, changed_source, first_tests, path_of
from servers import SERVER_PITFALLS
from trial import ROOT, Verdict, module_name, try_mutant

PAGE = ROOT / "docs" / "verification.md"
BEGIN, END = "<!-- mutants: written by `make mutants` -->", "<!-- end of mutants -->"

RARE = {
    "another value passes for accepted in a chosen slot": "takes away a check that fails only where something else is "
    "wrong already",
    "what an earlier leader said to be chosen still holds": "changes no outcome: what one leader knew to be chosen, "
    "the next proposes again",
    "what is chosen is merged like any other value": "changes no outcome, it costs a phase 2: what is chosen is "
    "held at a higher ballot than any other",
}
"""Why the simulation may take longer than its limit, where that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A list of known bugs, the tests that are about them (none given: those that are about each one's file), and the
    simulation that runs the code."""

    title: str
    pitfalls: tuple[Pitfall, ...]
    tests: tuple[str, ...]
    simulation: str
    length: str = "{seconds} simulated seconds of faults"
    pace: int = 1
    """So many times longer a seed lasts than asked for: as much happens in it as in a second of cores."""
    """What a seed stands for."""


RAFT_TESTS = (
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "tests/paper").glob("test_raft_*.py")),
    *("tests/unit/core/test_quorum.py", "tests/unit/core/test_progress.py", "tests/unit/core/test_log.py"),
    *("tests/unit/core/test_membership.py", "tests/unit/core/test_messages.py"),
    *("tests/unit/core/test_raft_node.py", "tests/scenarios"),
)

SUBJECTS = (
    Subject(title="Raft", pitfalls=PITFALLS, tests=RAFT_TESTS, simulation="core"),
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
        length=f"{worlds.REGISTERS_MS} simulated milliseconds of faults",
    ),
    Subject(
        title="Two-phase commit",
        pitfalls=twophase.MUTANTS,
        tests=twophase.TESTS,
        simulation="twophase",
        length=f"{worlds.TRANSACTIONS} transactions of each of two owners",
    ),
    Subject(title="Servers, storage, clients", pitfalls=SERVER_PITFALLS, tests=(), simulation="servers", pace=3),
)

PLANTED = "Planted by hand"
HEAD = "| pitfall | met in | named test | simulation: rule | seeds | shrunk to |\n|---|---|---|---|---|---|"


def sources_of(pitfall: Pitfall) -> dict[str, str]:
    """The changed module."""
    if pitfall in PITFALLS:
        path = path_of(pitfall)
        return {module_name(path): changed_source(pitfall, (ROOT / path).read_text())}
    return {module_name(pitfall.file): changed_source(pitfall, (ROOT / pitfall.file).read_text())}


def named_test(pitfall: Pitfall, sources: dict[str, str], subject: Subject) -> Verdict:
    """The first test that fails."""
    first = first_tests(pitfall) if pitfall in PITFALLS else ()
    if first and (verdict := try_mutant(sources, tests=first)).caught_by:
        return verdict
    if subject.tests:
        return try_mutant(sources, tests=subject.tests)
    return survivors.tried(pitfall.file.removeprefix("src/troth/"), *sources.values())


def told_test(pitfall: Pitfall, page: Path) -> Verdict:
    """The named test that *page* has for a bug."""
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and cells[1] == pitfall.name:
            return Verdict("" if cells[3] == "**nothing**" else cells[3])
    return Verdict("")


def row_of(pitfall: Pitfall, subject: Subject, options: argparse.Namespace) -> tuple[str, Verdict, Verdict]:
    """The row of one bug, and what the tests and the simulation said."""
    sources = sources_of(pitfall)
    by_test = told_test(pitfall, PAGE) if options.simulation else named_test(pitfall, sources, subject)
    by_seed = try_mutant(
        sources,
        tests=(),
        seeds=options.seeds,
        chaos_seconds=options.seconds * subject.pace,
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
    cells = (pitfall.name, pitfall.found or "-", by_test.caught_by or "**nothing**")
    return "| " + " | ".join((*cells, rule, seeds, small)) + " |", by_test, by_seed


def rows_of(subject: Subject, options: argparse.Namespace) -> Iterator[tuple[str, Verdict, Verdict]]:
    """One row for each bug, in order."""
    chosen = [pitfall for pitfall in subject.pitfalls if options.only in pitfall.name]
    end_s = time.monotonic() + 60 * options.minutes if options.minutes else math.inf

    def row(pitfall: Pitfall) -> tuple[str, Verdict, Verdict] | None:
        return None if time.monotonic() > end_s else row_of(pitfall, subject, options)

    with ThreadPoolExecutor(options.jobs) as pool:
        for found in pool.map(row, chosen):
            if found is not None:
                print(found[0], flush=True)
                yield found


def part_of(subject: Subject, options: argparse.Namespace) -> tuple[list[str], int]:
    """The table of bugs that have named tests; how many of them nothing has caught."""
    print(f"\n### {subject.title}\n\n{HEAD}", flush=True)
    length = subject.length.format(seconds=options.seconds * subject.pace)
    verdicts = list(rows_of(subject, options))
    found = [by_seed for _, _, by_seed in verdicts if by_seed.caught_by]
    missed = sum(not by_test.caught_by and not by_seed.caught_by for _, by_test, by_seed in verdicts)
    named = sum(bool(by_test.caught_by) for _, by_test, _ in verdicts)
    middle = sorted(verdict.seeds for verdict in found)[len(found) // 2] if found else 0
    summary = (
        f"Of {len(verdicts)} bugs {named} fail a named test, and the simulation alone finds {len(found)}, half of them "
        f"within {middle} {'seed' if middle == 1 else 'seeds'}. A seed is {length}. The search for a bug ends "
        f'after {options.seeds} seeds or {options.cpu} s of CPU time: "> n" means that it was stopped after n.'
    )
    untried = len([pitfall for pitfall in subject.pitfalls if options.only in pitfall.name]) - len(verdicts)
    if untried:
        summary += f" The run was ended before the last {untried} bugs of its list were tried."
    return [HEAD, *(line for line, _, _ in verdicts), "", summary], missed


def planted_part(options: argparse.Namespace) -> tuple[list[str], int]:
    """How many of the bugs planted in each file the tests about it catch; those that nothing has caught, by name."""
    head = "| file | bugs planted | caught by the tests about the file |\n|---|---|---|"
    print(f"\n### {PLANTED}\n\n{head}", flush=True)
    end_s = time.monotonic() + 60 * options.minutes if options.minutes else math.inf
    tried, caught = Counter[str](), Counter[str]()
    missed, stale = [], 0
    # In an order that has nothing to do with files, so that what a short run tries is a fair sample.
    for pitfall in random.Random(1).sample(planted.PLANTED, len(planted.PLANTED)):
        if options.only not in pitfall.name or time.monotonic() > end_s:
            continue
        file = pitfall.file.removeprefix("src/troth/")
        try:
            source = planted.changed(pitfall)
        except ValueError:
            stale += 1
            continue
        tried[file] += 1
        verdict = survivors.tried(file, source)
        if verdict.caught_by:
            caught[file] += 1
        else:
            missed.append(f"{file}: {pitfall.name}{survivors.unasked(verdict)}")
            print(f"missed: {missed[-1]}", flush=True)
    rows = [f"| {file} | {count} | {caught[file]} |" for file, count in sorted(tried.items())]
    total = tried.total()
    summary = f"Of {total} bugs the tests catch {caught.total()}."
    if missed:
        summary += " Not caught: " + "; ".join(missed) + "."
    if stale:
        summary += f" {stale} quote lines that are no more."
    if total + stale < len(planted.PLANTED):
        untried = len(planted.PLANTED) - total - stale
        summary += f" Drawn at random; the run was ended before the other {untried} were tried."
    print(summary, flush=True)
    return [head, *rows, "", summary], len(missed)


def write(page: Path, title: str, lines: list[str]) -> None:
    """Put *lines* in place of what the last run wrote under *title* in *page*."""
    commit = subprocess.run(
        ("git", "rev-parse", "--short", "HEAD"), cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    arguments = " ".join(each for each in sys.argv[1:] if each != "--write")
    command = "make mutants" + (f" ARGS='{arguments}'" if arguments else "")
    said = f"Written by `{command}` at commit {commit or 'unknown'}."
    before, _, rest = page.read_text().partition(BEGIN)
    block, _, after = rest.partition(END)
    sections = {part.partition("\n")[0]: part.rstrip() for part in block.split("\n### ")[1:]}
    sections[title] = "\n".join((title, "", said, "", *lines))
    titles = [*(subject.title for subject in SUBJECTS), PLANTED]
    body = "\n\n".join(f"### {sections[each]}" for each in titles if each in sections)
    page.write_text(f"{before.rstrip()}\n\n{BEGIN}\n\n{body}\n\n{END}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=8, help="of chaos a seed")
    parser.add_argument("--cpu", type=int, default=150, help="CPU seconds for the seeds of one bug")
    parser.add_argument("--shrink", type=int, default=10, help="CPU seconds for making a red seed small")
    parser.add_argument(
        "--minutes", type=float, default=0, help="begin with no further bug of a subject after so long"
    )
    parser.add_argument("--jobs", type=int, default=2, help="bugs that are tried side by side")
    parser.add_argument("--only", default="", help="bugs with this in their name")
    parser.add_argument("--subject", default="", help="raft, multi-paxos, registers, two-phase, servers, planted")
    parser.add_argument(
        "--simulation", action="store_true", help="alone: what the page says of named tests stays as it is"
    )
    parser.add_argument("--write", action="store_true", help="into docs/verification.md")
    options = parser.parse_args()
    missed = 0
    for name in survivors.HEAVY:
        importlib.import_module(name)
    for subject in SUBJECTS:
        if options.subject not in subject.title.lower():
            continue
        lines, unseen = part_of(subject, options)
        missed += unseen
        if options.write:
            write(PAGE, subject.title, lines)
    if options.subject in PLANTED.lower():
        lines, unseen = planted_part(options)
        missed += unseen
        if options.write:
            write(PAGE, PLANTED, lines)
    print(f"\n{missed} caught by nothing")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
