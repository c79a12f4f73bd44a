"""``python tests/mutants/survivors.py [FILE...]``: tries generic mutants of a file, and prints who survives its tests.

Each file is tried with the tests that are about it, the quickest first. Takes hours for all; not part of any test run.
``--sample N`` takes N mutants of each file, drawn by ``--draw``; ``--seeds N`` also tries survivors in the simulation;
``--only TEXT`` takes mutants with TEXT in their name, to see again what survived once.
"""

import argparse
import fnmatch
import importlib
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from generic import Mutant, mutants_of
from trial import ROOT, Verdict, module_name, try_mutant


@dataclass(frozen=True, slots=True)
class Subject:
    """Files, the tests that are about them (patterns, the quickest first), and the simulation that runs them."""

    files: tuple[str, ...]
    tests: tuple[str, ...]
    simulation: str = "core"
    whole: bool = False
    """Whether its tests are about all of its files alike."""


REGISTERS = ("tests/paper/test_caspaxos_*.py", "tests/unit/core/test_register_*.py")
STORAGE = (
    "tests/unit/storage/*.py",
    "tests/unit/simulate/test_simulated_disk.py",
    "tests/property/test_wal_twin.py",
)
REPLICA = ("tests/unit/replica/test_*.py",)
HASHING = ("tests/unit/hashing/test_hashing_[!c]*.py", "tests/unit/hashing/test_hashing_compat.py")
VERIFY = ("tests/unit/verify/test_verify_*.py",)
CHECKER = "tests/checker/test"
SUBJECTS = (
    Subject(
        ("core/quorum.py", "core/membership.py", "core/config.py", "core/interface.py"),
        ("tests/unit/core/*.py", "tests/paper/test_raft_*.py"),
    ),
    Subject(
        ("core/raft/*.py",),
        ("tests/unit/core/*.py", "tests/paper/test_raft_*.py", "tests/scenarios/*.py"),
        whole=True,
    ),
    Subject(
        ("core/leading/*.py",),
        ("tests/unit/core/*.py", "tests/paper/test_paxos_*.py", "tests/paper/test_raft_*.py"),
        whole=True,
    ),
    Subject(
        ("core/paxos/*.py",),
        ("tests/unit/core/test_[ep]*.py", "tests/paper/test_paxos_*.py", "tests/paper/test_raft_and_*.py"),
        "paxos",
        whole=True,
    ),
    Subject(
        ("core/register/*.py",),
        (*REGISTERS, "tests/property/test_register_acceptor.py"),
        "registers",
    ),
    Subject(
        ("core/twophase/*.py",),
        ("tests/unit/core/test_twophase_*.py",),
    ),
    Subject(
        ("kv/*.py",),
        ("tests/unit/kv/*.py", "tests/property/test_kv_store.py"),
        "servers",
    ),
    Subject(
        ("replica/*.py",),
        (*REPLICA, "tests/unit/client/test_client_data.py"),
        "servers",
    ),
    Subject(
        ("storage/slot_replay.py",),
        ("tests/unit/storage/test_storage_slots.py", "tests/property/test_wal_slots.py"),
    ),
    Subject(("storage/acceptors.py",), ("tests/unit/storage/test_storage_acceptors.py",), "registers"),
    Subject(("storage/*.py",), STORAGE, "servers"),
    Subject(
        ("runtime/genesis.py", "runtime/joining.py", "runtime/newborn.py"),
        ("tests/unit/runtime/test_genesis.py", "tests/unit/storage/test_storage_identity.py"),
        "servers",
    ),
    Subject(("runtime/*.py",), ("tests/unit/runtime/*.py",), "servers"),
    Subject(("simulate/registers/*.py",), ("tests/unit/simulate/test_register_judge.py",), "registers"),
    Subject(("client/*.py",), ("tests/unit/client/*.py",), "servers"),
    Subject(("server/*.py",), ("tests/unit/server/*.py",)),
    Subject(("wire/*.py",), ("tests/unit/wire/*.py",)),
    Subject(("torture/ledgers.py",), ("tests/unit/torture/test_torture_histories.py",)),
    Subject(
        ("verify/transactions/*.py",),
        (
            *("tests/unit/verify/transactions/*.py", "tests/unit/verify/test_verify_branches.py"),
            *(f"{CHECKER}_runs.py", f"{CHECKER}_transactions_differential.py"),
        ),
    ),
    Subject(("verify/specification/*.py",), ("tests/unit/verify/specification/*.py",)),
    Subject(
        ("verify/linearizability/*.py", "verify/models/*.py", "verify/primitives.py", "verify/sequential.py"),
        (*VERIFY, *(f"{CHECKER}_{name}.py" for name in ("branches", "minimal", "tangled", "differential"))),
    ),
    Subject(
        (
            "verify/formats/*.py",
            "verify/guess.py",
            "verify/history.py",
            "verify/completions.py",
            "verify/recorder.py",
        ),
        VERIFY,
    ),
    Subject(
        ("verify/*.py",),
        (*VERIFY, f"{CHECKER}_branches.py", f"{CHECKER}_[opw]*.py", f"{CHECKER}_differential.py"),
    ),
    Subject(
        ("transactions/*.py", "transactions/log/*.py"),
        ("tests/unit/transactions/*.py", "tests/conformance/test_decision_log.py"),
    ),
    Subject(
        ("hashing/*.py", "hashing/compat/*.py"),
        (*HASHING, "tests/property/test_hashing_*.py"),
    ),
)
FILES = ("core/quorum.py", "core/membership.py", "core/config.py", "core/leading/*.py", "core/raft/*.py")
NEAR = {
    "test_storage_log": ("replay", "record", "scan", "log"),
    "test_storage_log_damage": ("replay", "scan", "log"),
    "test_storage_files": ("log", "opening", "record"),
    "test_storage_identity": ("directory", "identity"),
    "test_caspaxos_phases": ("acceptor", "round", "task", "messages"),
    "test_caspaxos_outcomes": ("round", "states", "changes"),
    "test_caspaxos_reads": ("round",),
    "test_caspaxos_membership": ("reconfigure", "acceptor"),
    "test_caspaxos_deletion": ("acceptor", "states"),
    "test_kv_requests": ("store", "txn", "ranges", "writer", "checks"),
    "test_kv_lessor": ("leases", "lessor"),
    "test_kv_checks": ("checks",),
    "test_kv_preparing": ("preparing", "telling", "ranges"),
    "test_kv_order": ("order",),
    "test_caspaxos_acceptors": ("acceptor",),
    "test_caspaxos_fate": ("states",),
    "test_caspaxos_tasks": ("task", "round"),
    "test_caspaxos_attempts": ("attempts", "round"),
    "test_caspaxos_change_steps": ("reconfigure", "listing"),
    "test_caspaxos_copies": ("reconfigure", "listing"),
    "test_caspaxos_answers": ("round",),
    "test_register_life": ("reach", "aio_reach"),
    "test_register_sets": ("reach", "aio_reach"),
    "test_register_deadlines": ("reach", "aio_reach", "patience"),
    "test_register_sharing": ("shared", "turns"),
    "test_register_collection": ("backlog",),
    "test_register_lines": ("lines", "aio_lines"),
    "test_register_turns": ("turns",),
    "test_reads": ("reading", "reads"),
    "test_read_queue": ("reads",),
    "test_replica_long_work": ("reading",),
    "test_hashing_plan": ("moves", "planning"),
    "test_hashing_algorithms": ("anchor", "memento", "maglev", "jump", "rendezvous", "continuum"),
    "test_hashing_compat": ("cassandra", "kafka", "redis", "vitess"),
    "test_kv_deletion": ("preparing", "deletion"),
    "test_kv_watch": ("watch", "watchers"),
    "test_snapshot_sending": ("snapshots",),
    "test_forwarding": ("writes",),
    "test_administration": ("admin", "leasing", "watching", "replica"),
    "test_watching": ("leasing", "watching"),
    "test_acceptor_slow_disk": ("acceptors",),
    "test_runtime_acceptors": ("acceptors",),
    "test_node": ("node",),
    "test_node_news": ("node",),
    "test_peers": ("transport",),
    "test_client_port": ("clients",),
    "test_client_pipeline": ("writes",),
    "test_client_router": ("router",),
    "test_client_watch_stream": ("watch",),
    "test_client_lease_clock": ("lease",),
    "test_transactions_sessions": ("check", "judging", "register", "snapshot", "weak", "serial", "runs", "levels"),
    "test_transactions_anomalies": (
        "append",
        "lists",
        "walk",
        "cycles",
        "explain",
        "graph",
        "judging",
        "micro",
        "outcome",
        "levels",
    ),
    "test_transactions_scans": ("scans",),
    "test_transactions_rules": (
        "append",
        "lists",
        "cycles",
        "graph",
        "snapshot",
        "serial",
        "levels",
        "judging",
        "scans",
    ),
    "test_verify_branches": ("branches", "unsettled", "multi"),
    "test_specification_conformance": ("conformance", "explaining", "known", "trace"),
    "test_specification_explorer": ("actions", "explore", "properties", "state"),
    "test_specification_multipaxos": ("multipaxos_explore", "multipaxos_trace"),
    "test_verify_rules": (
        "sessions",
        "causal",
        "staleness",
        "convergence",
        "locks",
        "watches",
        "accesses",
        "sequential",
    ),
    "test_verify_lines": ("edn", "jepsen_log", "awdit", "maps", "spans", "history", "recorder"),
    "test_verify_queues": ("queues", "pairing", "bags", "foresight"),
    "test_verify_linearizability": (
        *(
            "register",
            "placing",
            "pending",
            "presence",
            "observers",
            "chains",
            "keys",
            "repeats",
            "concatenations",
        ),
        *("sets", "counters", "generic", "dispatch", "objects", "witness", "antichain", "result", "primitives"),
    ),
    "test_verify_checks": (
        "sessions",
        "causal",
        "staleness",
        "convergence",
        "locks",
        "atomicity",
        "accesses",
        "check",
    ),
    "test_verify_wild": ("maps", "shaping", "edn", "jepsen_log", "awdit", "read", "guess", "spans"),
    "test_verify_formats": ("maps", "shaping", "edn", "jepsen_log", "awdit", "read", "write"),
    "test_verify_history": ("history", "recorder", "verdict"),
    "test_transactions_file_log": ("file", "framing", "writer", "place", "directory"),
    "test_transactions_writer": ("file", "writer"),
    "test_transactions_places": ("file", "framing", "place", "directory"),
    "test_decision_log": ("file", "writer", "place", "replicated", "cluster_place", "pruning", "keys"),
    "test_transactions_owner": ("owner", "fan", "endings", "core", "transaction", "sqlite", "snapshot"),
    "test_transactions_cut_short": ("owner", "fan"),
    "test_transactions_pass_cut_short": ("recovery", "resolver", "snapshot", "barrier"),
    "test_transactions_left_behind": ("core", "remembered", "resolver"),
    "test_transactions_keys": ("core", "remembered", "transaction", "keys"),
    "test_transactions_later": ("core", "owner", "waiting"),
    "test_transactions_fencing": ("core", "file", "writer", "place"),
    "test_transactions_interleaved": ("file", "writer", "place"),
    "test_transactions_recovery": ("recovery", "resolver"),
    "test_transactions_resolver": ("resolver", "recovery"),
    "test_transactions_barrier": ("barrier", "snapshot"),
    "test_transactions_last_resource": ("sqlite", "sql", "connection", "core"),
    "test_transactions_cluster": ("cluster",),
    "test_transactions_sql": ("sql", "connection", "named"),
    "test_transactions_orm": ("nesting",),
}
"""Tests that are about files which they are not named after."""
TESTS_SECONDS = 24
"""CPU time for one group of tests; as they are they take less than half of it."""
HEAVY = ("hypothesis", "sqlalchemy", "sqlalchemy.ext.asyncio", "msgspec", "sortedcontainers", "asyncio")
"""Imported once, before the trials fork; what belongs to the project is imported anew by each."""


def subject_of(path: str) -> Subject:
    """What is known of the file *path* ("kv/store.py"): the first subject that names it.

    Raises:
        LookupError: none does.
    """
    for each in SUBJECTS:
        if any(fnmatch.fnmatch(path, pattern) for pattern in each.files):
            return each
    raise LookupError(f"no subject names {path}")


def tests_of(path: str) -> list[list[str]]:
    """The test files about *path*: those named after it, or after a word of it, then all others."""
    subject = subject_of(path)
    files = [test for each in subject.tests for test in sorted(ROOT.glob(each))]
    found = [str(test.relative_to(ROOT)) for test in files if test.name.startswith("test_")]
    if subject.whole:
        return [list(dict.fromkeys(found))]
    name, stem = Path(path).stem, Path(path).stem.rstrip("s")
    told = [test for test in found if name in NEAR.get(Path(test).stem, ())]
    near = told or [test for test in found if stem in Path(test).stem]
    return [each for each in (near, [test for test in dict.fromkeys(found) if test not in near]) if each]


def tried(path: str, source: str, *, seeds: int = 0, nearest: bool = False) -> Verdict:
    """What *source* in place of *path* is caught by: first its nearest tests, then the others, then the simulation."""
    sources = {module_name(f"src/troth/{path}"): source}
    not_asked: tuple[str, ...] = ()
    for tests in tests_of(path)[: 1 if nearest else None]:
        if (verdict := try_mutant(sources, tests=tests, tests_seconds=TESTS_SECONDS)).caught_by:
            return verdict
        not_asked += verdict.not_asked
    verdict = try_mutant(sources, tests=(), seeds=seeds, simulation=subject_of(path).simulation)
    return replace(verdict, not_asked=not_asked)


def unasked(verdict: Verdict) -> str:
    """What is to be known of a mutant that was not caught."""
    slow = ", ".join(verdict.not_asked)
    return f" (not asked, as all of their tests are slow: {slow})" if slow else ""


def chosen(path: str, options: argparse.Namespace) -> list[Mutant]:
    """The mutants of one file that are to be tried, in the order of the file."""
    found = [
        each for each in mutants_of(path, (ROOT / "src/troth" / path).read_text()) if options.only in each.name
    ]
    if options.sample and options.sample < len(found):
        places = random.Random(f"{options.draw} {path}").sample(range(len(found)), options.sample)
        found = [found[place] for place in sorted(places)]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=FILES, help="below src/troth, patterns allowed")
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--draw", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--nearest", action="store_true", help="only the tests that are named after the file")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    for name in HEAVY:
        importlib.import_module(name)
    survived = total = 0
    base = ROOT / "src/troth"
    patterns = [each.removeprefix("src/troth/") for each in options.files]
    for path in dict.fromkeys(
        str(each.relative_to(base)) for text in patterns for each in sorted(base.glob(text))
    ):
        found, began_s = chosen(path, options), time.monotonic()
        unchanged = tried(path, (base / path).read_text())
        if unchanged.caught_by:
            sys.exit(f"{path} as it is fails {unchanged.caught_by}: nothing can be said about mutants")

        def attempt(mutant: Mutant, path: str = path) -> tuple[Mutant, Verdict]:
            return mutant, tried(path, mutant.source, seeds=options.seeds, nearest=options.nearest)

        with ThreadPoolExecutor(options.jobs) as pool:
            for mutant, verdict in pool.map(attempt, found):
                total += 1
                if not verdict.caught_by:
                    survived += 1
                    print(f"SURVIVED {mutant.name}{unasked(verdict)}", flush=True)
                elif verdict.caught_by.startswith("simulation"):
                    print(f"by {verdict.caught_by} after {verdict.seeds} seeds: {mutant.name}", flush=True)
        print(f"# {path}: {len(found)} mutants, {time.monotonic() - began_s:.0f} s", flush=True)
    print(f"{total} mutants, {survived} survived")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
