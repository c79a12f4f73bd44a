"""`check_transactions`: decide whether a history of transactions satisfies a consistency model.

The verdict names every anomaly that was found, the weakest models they rule out (`not_`) and the stronger ones that
fall with those (`also_not`), tells the shortest cycle found in words, and can draw it. It is ok only when that was
proven (see `append` and `serial` for how) and unknown when time ran out or the history leaves the answer open.

Where it is not known which branch of a transaction ran (`unsettled`), every way is judged (`judging`).
"""

from collections.abc import Callable
from typing import Final

from troth.errors import UsageError
from troth.verify.branches import is_unsaid
from troth.verify.history import History
from troth.verify.transactions.graph import never
from troth.verify.transactions.judging import Definition, judged
from troth.verify.transactions.levels import TRANSACTION_MODELS, level_named
from troth.verify.transactions.outcome import TransactionVerdict
from troth.verify.transactions.register import RegisterAssumptions
from troth.verify.transactions.unsettled import settled
from troth.verify.verdict import Part, Status

WORKLOADS: Final = ("list-append", "rw-register")

_MANY_WAYS: Final = "transactions whose answers were lost may have gone too many ways to try them all"
_RANK: Final = {Status.ILLEGAL: 0, Status.UNKNOWN: 1, Status.OK: 2}


def check_transactions(
    history: History,
    workload: str | None = None,
    model: str = "strict-serializable",
    *,
    definition: Definition | None = None,
    assume: RegisterAssumptions | None = None,
    expired: Callable[[], bool] | None = None,
    clock: Callable[[], float] | None = None,
    seconds_max: float | None = None,
) -> TransactionVerdict:
    """Decide whether *history* satisfies *model*.

    Args:
        history: operations whose values are [[f, key, value], ...], f one of append, r, w.
        workload: "list-append" or "rw-register"; found out from the operations when None.
        model: one of `TRANSACTION_MODELS` (or Adya's or Elle's name of it).
        definition: whose read committed, read atomic, causal, snapshot isolation and serializable are meant.
        assume: for rw-register, what is known of the store.
        expired: asked now and then; True makes an undecided verdict unknown.
        clock: seconds, any origin; together with *seconds_max* another way to say *expired*.
        seconds_max: how long to go on.

    Raises:
        UsageError: no such model or workload, or operations that are not transactions.
    """
    level = level_named(model)
    if not level.decided:
        raise UsageError(f"{level.name} is only ever ruled out; ask for one of {', '.join(TRANSACTION_MODELS)}")
    out_of_time = expired or never
    if clock is not None and seconds_max is not None:
        end, read = clock() + seconds_max, clock
        before = out_of_time
        out_of_time = lambda: before() or read() > end  # noqa: E731 - a name for a closure of four names
    if workload is not None and workload not in WORKLOADS:
        raise UsageError(f"no transactional workload is called {workload!r}; there are {', '.join(WORKLOADS)}")
    if definition is None:
        definition = "axiomatic" if history.format == "awdit" else "adya"
    known = assume or RegisterAssumptions()
    ways = settled(history)
    unsaid = next((op for op in history.operations if is_unsaid(op)), None)
    found: TransactionVerdict | None = None
    for way in ways:
        verdict = judged(way, workload, level, definition, known, out_of_time)
        # Legal one way is legal; whatever stayed open one way is open.
        if found is None or _RANK[verdict.status] > _RANK[found.status]:
            found = verdict
        if verdict.status is Status.OK:
            break
    if found is None:
        return _unknown(history, level.name, workload or "rw-register", _MANY_WAYS)
    if unsaid is not None and found.status is Status.ILLEGAL:
        reason = f"{found.reason}; but what [{unsaid.index}] {unsaid.describe()} may have done is not known"
        return _unknown(history, level.name, found.object, reason)
    if len(ways) > 1 or unsaid is not None:
        # Another way may break other promises, or none.
        found.also_not = ()
        found.not_ = (level.name,) if found.status is Status.ILLEGAL else ()
        if found.status is not Status.ILLEGAL:
            found.anomalies = found.views = ()
    return found


def _unknown(history: History, model: str, workload: str, reason: str) -> TransactionVerdict:
    return TransactionVerdict(
        Status.UNKNOWN,
        history=history,
        model=model,
        workload=workload,
        reason=reason,
        anomalies=(),
        views=(),
        not_=(),
        also_not=(),
        part=Part(key=None, status=Status.UNKNOWN, algorithm="none", cost="none", events=len(history)),
        witness=None,
    )
