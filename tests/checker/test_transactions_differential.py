"""The transactional checkers against oracles that try everything, on random small histories.

`python -m pytest -m campaign tests/checker/test_transactions_differential.py` runs the large counts.
"""

from collections import Counter
from collections.abc import Callable

import pytest

from troth.verify.history import EventType, History, Value
from troth.verify.transactions import check_transactions
from troth.verify.transactions.explain import CycleView
from troth.verify.transactions.levels import ruled_out
from troth.verify.verdict import Status

from .anomalies_brute import PLAIN, Lists, cycles, plain
from .transactions_brute import (
    LIST,
    REGISTER,
    Txn,
    axiomatic,
    phenomena,
    random_answers,
    random_skews,
    random_transactions,
    replay,
    serializable,
    snapshot_isolated,
    transactions_of,
)

LEVELS = (("", ""), ("strong-session-", "process"), ("strong-", "realtime"))


def expected(history: History, workload: str) -> dict[str, bool]:
    """What the oracles say of every model that has one."""
    txns = transactions_of(history)
    answers: dict[str, bool] = {}
    for prefix, level in LEVELS:
        name = "strict-serializable" if prefix == "strong-" else prefix + "serializable"
        answers[name] = serializable(txns, level)
        answers[prefix + "snapshot-isolation"] = snapshot_isolated(txns, level)
    answers["read-atomic"] = axiomatic(txns, workload, "atomic", sessions=False)
    answers["causal"] = axiomatic(txns, workload, "causal", sessions=True)
    if workload == REGISTER or _agreeing(txns):
        dirty, nowhere = _dirty(txns), _thin_air(txns)
        for prefix, level in LEVELS:
            uncommitted = phenomena(txns, workload, level, rw=False, wr=False)
            committed = phenomena(txns, workload, level, rw=False)
            if uncommitted is not None and committed is not None:
                answers[prefix + "read-uncommitted"] = uncommitted and not nowhere
                answers[prefix + "read-committed"] = committed and not dirty
        repeatable = phenomena(txns, workload, "", rw=True)
        if repeatable is not None:
            answers["repeatable-read"] = repeatable and not dirty
    return answers


def _reads(txns: list[Txn]) -> list[tuple[Txn, Value, tuple[Value, ...]]]:
    found = []
    for txn in txns:
        if txn.outcome is EventType.OK:
            for f, key, value in txn.micros:
                if f == "r" and value not in (None, ()):
                    found.append((txn, key, value if isinstance(value, tuple) else (value,)))
    return found


def _agreeing(txns: list[Txn]) -> bool:
    """Whether all lists read of a key are prefixes of one, without repetition."""
    lists = [(key, value) for _, key, value in _reads(txns)]
    return all(len(set(a)) == len(a) for _, a in lists) and all(
        k != j or a[: len(b)] == b or b[: len(a)] == a for k, a in lists for j, b in lists
    )


def _writers(txns: list[Txn]) -> dict[tuple[Value, Value], Txn]:
    return {(key, value): txn for txn in txns for f, key, value in txn.micros if f != "r"}


def _thin_air(txns: list[Txn]) -> bool:
    writers = _writers(txns)
    return any((key, element) not in writers for _, key, value in _reads(txns) for element in value)


def _dirty(txns: list[Txn]) -> bool:
    """G1a, G1b, reads from nowhere, and reads of what the transaction writes later."""
    writers = _writers(txns)
    for txn, key, value in _reads(txns):
        for element in value:
            if (key, element) not in writers or writers[key, element].outcome is EventType.FAIL:
                return True
        writer = writers[key, value[-1]]
        mine = [v for f, k, v in writer.micros if f != "r" and k == key]
        if writer is not txn and mine[-1] != value[-1]:
            return True
    for txn in txns:
        if txn.outcome is EventType.OK:
            for at, (f, key, value) in enumerate(txn.micros):
                if f == "r" and value is not None:
                    seen = value if isinstance(value, tuple) else (value,)
                    if any(g != "r" and k == key and v in seen for g, k, v in txn.micros[at:]):
                        return True
    return False


def compare(
    workload: str, seeds: range, make: Callable[[int, str], History] = random_transactions
) -> Counter[tuple[str, str]]:
    """Put every seed to checker and oracles; returns how often each model got which verdict."""
    tally: Counter[tuple[str, str]] = Counter()
    for seed in seeds:
        history = make(seed, workload)
        for model, legal in expected(history, workload).items():
            verdict = check_transactions(history, workload, model)
            tally[model, verdict.status.value] += 1
            if verdict.status is not Status.UNKNOWN:
                assert (verdict.status is Status.OK) == legal, (workload, seed, model, verdict.text(lines_max=60))
    return tally


def compare_axioms(seeds: range) -> Counter[tuple[str, str]]:
    """Registers under the definitions of Biswas & Enea, where every level respects sessions."""
    tally: Counter[tuple[str, str]] = Counter()
    for seed in seeds:
        history = random_transactions(seed, REGISTER, count=5)
        txns = transactions_of(history)
        for model, axiom in (("read-committed", "committed"), ("read-atomic", "atomic"), ("causal", "causal")):
            legal = axiomatic(txns, REGISTER, axiom, sessions=True)
            verdict = check_transactions(history, REGISTER, model, definition="axiomatic")
            tally[model, verdict.status.value] += 1
            assert (verdict.status is Status.OK) == legal, (seed, model, verdict.text(lines_max=60))
    return tally


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("workload", [LIST, REGISTER])
def test_no_model_is_judged_wrongly(workload: str, count: int) -> None:
    tally = compare(workload, range(count))
    for model in ("serializable", "snapshot-isolation", "causal", "read-atomic", "read-committed"):
        assert tally[model, "ok"] > count * 0.4
        assert tally[model, "illegal"] >= count // 100
    # Nothing stays open in histories this small.
    assert not any(status == "unknown" for _, status in tally)


@pytest.mark.parametrize("count", [40, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("workload", [LIST, REGISTER])
def test_write_skew_and_unread_writes_are_judged_rightly(workload: str, count: int) -> None:
    tally = compare(workload, range(count), random_skews)
    for model in ("serializable", "snapshot-isolation", "strong-session-snapshot-isolation", "causal"):
        assert tally[model, "ok"] > count * 0.2
        assert tally[model, "illegal"] > count * 0.03
    assert tally["serializable", "illegal"] > tally["snapshot-isolation", "illegal"]
    assert not any(status == "unknown" for _, status in tally)


@pytest.mark.parametrize("workload", [LIST, REGISTER])
def test_answers_at_random_are_judged_rightly(workload: str) -> None:
    tally = compare(workload, range(40), random_answers)
    assert tally["serializable", "ok"] > 10 and tally["serializable", "illegal"] > 10
    assert not any(status == "unknown" for _, status in tally)


def test_axioms_are_judged_as_by_trying_every_commit_order() -> None:
    tally = compare_axioms(range(400))
    assert min(tally[model, "illegal"] for model in ("read-committed", "read-atomic", "causal")) > 10


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("workload", [LIST, REGISTER])
def test_no_model_is_judged_wrongly_in_tens_of_thousands(workload: str) -> None:
    compare(workload, range(1_000, 26_000))
    compare(workload, range(1_000, 26_000), random_skews)
    compare(workload, range(1_000, 26_000), random_answers)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_axioms_in_tens_of_thousands() -> None:
    compare_axioms(range(1_000, 31_000))


def test_a_serializable_history_comes_with_an_order_that_can_be_replayed() -> None:
    replayed = 0
    for workload in (LIST, REGISTER):
        for seed in range(200):
            history = random_transactions(seed, workload)
            for model in ("serializable", "strong-session-serializable", "strict-serializable"):
                verdict = check_transactions(history, workload, model)
                if not verdict:
                    continue
                txns = {txn.number: txn for txn in transactions_of(history)}
                store: dict[Value, tuple[Value, ...]] = {}
                assert verdict.witness is not None
                for number in verdict.witness:
                    fits, store = replay(txns[number], store)
                    assert fits, (workload, seed, model)
                oks = {number for number, txn in txns.items() if txn.outcome is EventType.OK}
                assert oks <= set(verdict.witness)
                replayed += 1
    assert replayed > 300


def _is_what_it_is_called(view: CycleView) -> bool:
    """Whether the steps of a cycle are of the kinds that its name allows."""
    kinds = [step.kind for step in view.steps]
    base = view.anomaly.removesuffix("-process").removesuffix("-realtime")
    allowed = {"ww"} if base == "G0" else {"ww", "wr"} if base == "G1c" else {"ww", "wr", "rw"}
    if view.anomaly != base:
        allowed |= {"process"} | ({"realtime"} if view.anomaly.endswith("realtime") else set())
    rushes = kinds.count("rw")
    follow = any(one == other == "rw" for one, other in zip(kinds, [*kinds[1:], kinds[0]], strict=True))
    return (
        {*kinds} <= allowed
        and (base != "G-single" or rushes == 1)
        and (base != "G-nonadjacent" or (rushes > 1 and not follow))
        and (base != "G2-item" or rushes > 0)
    )


def compare_names(seeds: range) -> Counter[str]:
    """The anomalies that are named against their definitions; returns how often each was there."""
    tally: Counter[str] = Counter()
    for seed in seeds:
        for make in (random_transactions, random_skews, random_answers):
            history = make(seed, LIST)
            lists = Lists(transactions_of(history))
            verdict = check_transactions(history, LIST, "strict-serializable")
            named = {name for name in verdict.anomalies if name.startswith("G") and name not in PLAIN}
            told = (make.__name__, seed, verdict.text(lines_max=60))
            assert {*verdict.anomalies} & PLAIN == plain(lists), told
            there = cycles(lists)
            assert there >= named, told
            if not plain(lists):
                # Not everything is named, but all that it says.
                assert ruled_out(verdict.anomalies) >= ruled_out(there), told
            for view in verdict.views:
                assert not view.steps or len(set(view.transactions)) == len(view.transactions), told
                assert not view.steps or view.anomaly[0] != "G" or _is_what_it_is_called(view), told
            tally.update(verdict.anomalies)
    return tally


def test_anomalies_are_called_by_their_names() -> None:
    tally = compare_names(range(450, 550))
    assert {*tally} >= PLAIN
    assert {base + suffix for base in ("G0", "G1c", "G-single", "G2-item") for suffix in ("", "-process")} <= {
        *tally
    }


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_names_in_tens_of_thousands() -> None:
    compare_names(range(1_000, 21_000))
