"""One function for every check: `check(history, model="linearizable", object="kv")`.

=====================  ==================================================================================
model                  what is asked
=====================  ==================================================================================
linearizable           every operation takes effect at one instant between its call and its return
sequential             one order of everything that keeps each process's own order
causal                 causal memory: every process has its own order, respecting what caused what
causal+                causal, and one order of writes for everybody
causal-weak            reads are explained by their causal past
pram                   every process sees the writes of each other process in the order they were made
read-your-writes       \\
monotonic-reads         | the session guarantees, one by one; "session" is the first two,
monotonic-writes        | "session-guarantees" all four
writes-follow-reads    /
bounded                a read is at most so much time, or so many versions, behind
eventual               once writing has stopped, everybody reads the same and nothing is lost
atomic-commit          two-phase commit: no participant commits what another aborts
watch                  every change of a span of keys is shown once, in order, and none is missing
lock-safety            one holder at a time, growing tokens, stale holders fenced off
scan                   what one pass shows about a workload of Jepsen's (bank, long-fork, set, ...)
=====================  ==================================================================================
"""

from collections.abc import Callable
from typing import Final

from troth.errors import UsageError
from troth.verify.accesses import starting_as
from troth.verify.atomicity import check_atomic_commit
from troth.verify.causal import CAUSAL_MODELS, check_causal
from troth.verify.convergence import check_convergence
from troth.verify.history import History
from troth.verify.linearizability import Budget, check_linearizable
from troth.verify.locks import check_lock
from troth.verify.models import Model, Register, model_of
from troth.verify.sequential import check_sequential
from troth.verify.sessions import GUARANTEES, check_session_guarantees
from troth.verify.staleness import check_bounded
from troth.verify.transactions.scans import SCANS
from troth.verify.verdict import Status, Verdict
from troth.verify.watches import WATCH, check_watches

MODELS: Final = (
    "linearizable",
    "sequential",
    *CAUSAL_MODELS,
    "session",
    "session-guarantees",
    *GUARANTEES,
    "bounded",
    "eventual",
    "atomic-commit",
    "lock-safety",
    "watch",
    "scan",
)
"""Names that `check` accepts as *model*."""

_SESSIONS: Final[dict[str, tuple[str, ...]]] = {
    "session": GUARANTEES[:2],
    "session-guarantees": GUARANTEES,
    **{guarantee: (guarantee,) for guarantee in GUARANTEES},
}
_READS: Final = frozenset({"read", "get"})
_OF_REAL_TIME: Final = frozenset({"linearizable", "bounded", "eventual", "lock-safety", "watch"})


def check(
    history: History,
    model: str = "linearizable",
    object: str | Model = "kv",
    *,
    expired: Callable[[], bool] | None = None,
    configurations_max: int = 1_000_000,
    every_part: bool = False,
    staleness_ns_max: int | None = None,
    versions_behind_max: int | None = None,
    quiet_ns: int = 0,
) -> Verdict:
    """Check a history against a consistency model.

    Args:
        history: from `read_history`, `pair` or a `Recorder`. Linearizable leaves out its reads that asked for less:
            the verdict's own history is without them.
        model: one of `MODELS`.
        object: a name of `troth.verify.models.OBJECTS`, or a model of your own.
        expired: asked now and then; once it says True the verdict is unknown. Pure code has no clock, so hand one in:
            ``expired=lambda: time.monotonic() > deadline``.
        configurations_max: bound on memory; beyond it the verdict is unknown.
        every_part: for linearizable, look at all keys even after one was found illegal.
        staleness_ns_max, versions_behind_max: the bound of "bounded"; exactly one of them.
        quiet_ns: for eventual, how long after the last update reads must agree.

    Raises:
        UsageError: no such model or object, or the model does not fit what the history holds.
    """
    if history.format == "awdit" and model in _OF_REAL_TIME:
        raise UsageError(
            f"{model} is about real time, which AWDIT's files do not hold; ask for sequential, causal, a session "
            f"guarantee, or a model of transactions (--object rw-register)"
        )
    budget = Budget(expired=expired, configurations_max=configurations_max)
    if model == "linearizable":
        strong = _without_weaker_reads(history)
        return check_linearizable(strong, model_of(object), budget=budget, every_part=every_part)
    if model == "sequential":
        return _with_pieces(
            history,
            lambda each: check_sequential(each, model_of(object), expired=expired, states_max=configurations_max),
        )
    if model in CAUSAL_MODELS or model in _SESSIONS:
        return _with_pieces(history, lambda each: _check_weak(each, model, object, expired))
    if model == "eventual":
        return check_convergence(history, model_of(object), quiet_ns=quiet_ns)
    if model == "atomic-commit":
        return check_atomic_commit(history)
    if model == "lock-safety":
        return check_lock(history)
    if model == WATCH:
        return check_watches(history)
    if model == "scan":
        scan = SCANS.get(object if isinstance(object, str) else object.name)
        if scan is None:
            raise UsageError(f"there is no scan of a {object}; there are {', '.join(SCANS)}")
        return scan(history)
    if model == "bounded":
        register = model_of(object)
        if not isinstance(register, Register):
            raise UsageError(f"bounded staleness is about registers and keys, not about a {register.name}")
        return check_bounded(
            history,
            register,
            staleness_ns_max=staleness_ns_max,
            versions_behind_max=versions_behind_max,
            budget=budget,
        )
    raise UsageError(f"no consistency model is called {model!r}; there are {', '.join(MODELS)}")


def _without_weaker_reads(history: History) -> History:
    """*history* without reads that asked for less than linearizable, which a store may serve as they asked."""
    if all(op.level is None for op in history.operations):
        return history
    return history.where(op.index for op in history.operations if op.level is None or op.f not in _READS)


def _with_pieces(history: History, judge: Callable[[History], Verdict]) -> Verdict:
    """What *judge* says of a history in which operations may have been taken apart.

    Each piece by itself, as a process of its own, is in no order with what its process did: that can hide a violation
    and never invent one. Put back into their process, in the one order that is tried, they show that all is legal.
    """
    verdict = judge(history)
    if verdict.status is not Status.OK or not history.pieces:
        return verdict
    placed = judge(history.in_sessions())
    placed.history = history
    if placed.status is Status.ILLEGAL:
        why = "key by key it is in order, but not with what each process did before and after"
        return Verdict(Status.UNKNOWN, history=history, model=placed.model, object=placed.object, reason=why)
    return placed


def _check_weak(history: History, model: str, object: str | Model, expired: Callable[[], bool] | None) -> Verdict:
    """The models that speak of reads and writes only, whatever the object calls them."""
    if isinstance(object, Register):
        history = starting_as(history, object)
    if model in CAUSAL_MODELS:
        verdict = check_causal(history, model, expired=expired)
    else:
        verdict = check_session_guarantees(history, _SESSIONS[model], name=model, expired=expired)
    verdict.object = object if isinstance(object, str) else object.name
    return verdict
