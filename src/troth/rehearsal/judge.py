"""What clients were told, judged after a run: each operation at the level that it was promised."""

from troth.errors import InvariantViolation, invariant
from troth.rehearsal.clients import BEHIND
from troth.rehearsal.record import Record, history_of
from troth.verify.check import check
from troth.verify.verdict import Status, Verdict

CONFIGURATIONS_MAX = 100_000
_OF_WATCHES = {
    "watch-goes-back": "a watch goes back",
    "watch-repeats": "a watch shows an event twice",
    "watch-strays": "a watch shows what it was not asked for",
}


def judge(record: Record, versions: dict[str, int]) -> list[str]:
    """Check everything that *record* holds. Returns the checks that could not be decided.

    Args:
        versions: of each key that one client wrote alone, what the cluster holds at the end (how often it was put).

    Raises:
        InvariantViolation: a promise was broken; says which, and how it is seen.
    """
    undecided = judge_consistency(record)
    for name, appends in record.appends.items():
        found = versions.get(name, 0)
        invariant(
            found >= appends.acknowledged,
            "an acknowledged write is lost",
            key=f"log/{name}",
            found=found,
            **_of(appends),
        )
        invariant(
            found <= appends.acknowledged + appends.unknown,
            "a write was applied twice",
            key=f"log/{name}",
            found=found,
            **_of(appends),
        )
    _judge_watches(record)
    return undecided


def judge_consistency(record: Record) -> list[str]:
    """Check what clients have seen so far. Returns the checks that could not be decided.

    Raises:
        InvariantViolation: it is not what was promised.
    """
    undecided = [
        _demand(
            "linearizable",
            check(history_of(record.registers), "linearizable", "kv", configurations_max=CONFIGURATIONS_MAX),
        ),
        _demand(
            "linearizable (registers)",
            check(history_of(record.cells), "linearizable", "kv", configurations_max=CONFIGURATIONS_MAX),
        ),
        _demand("session", check(history_of(record.sessions), "session", "kv")),
        _demand(
            "bounded",
            check(
                history_of(record.bounded),
                "bounded",
                "kv",
                versions_behind_max=BEHIND,
                configurations_max=CONFIGURATIONS_MAX,
            ),
        ),
    ]
    return [each for each in undecided if each]


def _of(appends: object) -> dict[str, int]:
    return {name: getattr(appends, name) for name in ("acknowledged", "unknown")}


def _demand(claim: str, verdict: Verdict) -> str:
    if verdict.status is Status.ILLEGAL:
        raise InvariantViolation(
            f"what clients saw is not {claim}: " + " ".join(verdict.text(lines_max=12).split("\n"))
        )
    return "" if verdict.status is Status.OK else claim


def _judge_watches(record: Record) -> None:
    """Once each, in order, and nothing that was acknowledged is missing."""
    verdict = check(record.watched(), "watch")
    if verdict.status is Status.ILLEGAL:
        claim = _OF_WATCHES.get(
            verdict.anomalies[0], "a watch lacks what was acknowledged, or shows something else"
        )
        raise InvariantViolation(f"{claim}: {verdict.reason}")
