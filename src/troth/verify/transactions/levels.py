"""Transactional consistency models, the anomalies each forbids, and what a set of anomalies therefore rules out.

A model forbids its own anomalies and those of every model that it implies. Sources of the rows:

* Adya, "Weak Consistency" (PhD thesis, MIT 1999) and Adya, Liskov & O'Neil, "Generalized Isolation Level Definitions",
  ICDE 2000: PL-1 (read uncommitted), PL-2 (read committed), PL-2+ (consistent view), PL-2.99 (repeatable read), PL-3
  (serializable), G0, G1a, G1b, G1c, G-single, G2-item.
* Cerone, Bernardi & Gotsman, CONCUR 2015 (read atomic) and Cerone & Gotsman, "Analysing Snapshot Isolation", PODC 2016:
  snapshot isolation allows exactly the histories in which every cycle has two adjacent rw edges (G-nonadjacent).
* Daudjee & Salem, ICDE 2004 and VLDB 2006: the strong session and strong variants.
* Biswas & Enea, "On the Complexity of Checking Transactional Consistency", OOPSLA 2019: causal, with sessions.
* Kingsbury & Alvaro, "Elle", VLDB 2020: which anomalies can be seen in which histories; the remaining names. What each
  model forbids and implies was compared with Elle's own table (elle.consistency-model at 04d7400); models that it has
  and that differ only by predicates, or by nothing that these histories show, are left out.

Only reads of single items are recorded in these histories, so every G-single is an item one, and G2 is G2-item.
"""

from collections.abc import Iterable
from functools import cache
from typing import Final

from msgspec import Struct

from troth.errors import UsageError


class Level(Struct, frozen=True, kw_only=True):
    """One model. `decided`: `check_transactions` can be asked for it (others only appear among the ruled out)."""

    name: str
    implies: tuple[str, ...]
    forbids: tuple[str, ...]
    decided: bool = True


_LEVELS: Final = (
    Level(
        name="read-uncommitted",
        implies=(),
        forbids=("G0", "duplicate-elements", "cyclic-versions", "thin-air-read"),
    ),
    Level(name="read-committed", implies=("read-uncommitted",), forbids=("G1a", "G1b", "G1c")),
    Level(
        name="read-atomic",
        implies=("read-committed",),
        forbids=("internal", "future-read", "fractured-read"),
    ),
    Level(
        name="causal", implies=("read-atomic", "strong-session-read-committed"), forbids=("causality-violation",)
    ),
    Level(name="cursor-stability", implies=("read-committed",), forbids=("lost-update",), decided=False),
    Level(name="consistent-view", implies=("cursor-stability",), forbids=("G-single",), decided=False),
    Level(
        name="snapshot-isolation",
        implies=("consistent-view", "read-atomic"),
        forbids=("G-nonadjacent", "not-snapshot-isolated"),
    ),
    Level(name="repeatable-read", implies=("cursor-stability",), forbids=("G2-item", "not-repeatable")),
    Level(
        name="serializable",
        implies=("repeatable-read", "snapshot-isolation"),
        forbids=("not-serializable",),
    ),
    Level(name="strong-session-read-uncommitted", implies=("read-uncommitted",), forbids=("G0-process",)),
    Level(
        name="strong-session-read-committed",
        implies=("read-committed", "strong-session-read-uncommitted"),
        forbids=("G1c-process",),
    ),
    Level(
        name="strong-session-snapshot-isolation",
        implies=("snapshot-isolation", "causal"),
        forbids=("G-single-process", "G-nonadjacent-process", "not-snapshot-isolated-process"),
    ),
    Level(
        name="strong-session-serializable",
        implies=("serializable", "strong-session-snapshot-isolation"),
        forbids=("G2-item-process", "not-serializable-process"),
    ),
    Level(
        name="strong-read-uncommitted",
        implies=("strong-session-read-uncommitted",),
        forbids=("G0-realtime",),
    ),
    Level(
        name="strong-read-committed",
        implies=("strong-session-read-committed", "strong-read-uncommitted"),
        forbids=("G1c-realtime",),
    ),
    Level(
        name="strong-snapshot-isolation",
        implies=("strong-session-snapshot-isolation", "strong-read-committed"),
        forbids=("G-single-realtime", "G-nonadjacent-realtime", "not-snapshot-isolated-realtime"),
    ),
    Level(
        name="strict-serializable",
        implies=("strong-session-serializable", "strong-snapshot-isolation"),
        forbids=("G2-item-realtime", "not-serializable-realtime"),
    ),
)

LEVELS: Final[dict[str, Level]] = {level.name: level for level in _LEVELS}
TRANSACTION_MODELS: Final = tuple(level.name for level in _LEVELS if level.decided)
"""Names that `check_transactions` takes as *model*."""

_ALIASES: Final = {
    "PL-1": "read-uncommitted",
    "PL-2": "read-committed",
    "PL-2+": "consistent-view",
    "PL-2.99": "repeatable-read",
    "PL-3": "serializable",
    "PL-SI": "snapshot-isolation",
    "PL-SS": "strict-serializable",
    "conflict-serializable": "serializable",
    "strong-serializable": "strict-serializable",
    "strong-session-PL-1": "strong-session-read-uncommitted",
    "strong-session-PL-2": "strong-session-read-committed",
    "strong-PL-1": "strong-read-uncommitted",
    "strong-PL-2": "strong-read-committed",
    "causal-cerone": "causal",
}

_CHAINS: Final = ("G0", "G1c", "G-single", "G-nonadjacent", "G2-item")


def _implied() -> dict[str, tuple[str, ...]]:
    """Anomaly -> the anomalies that it is a case of (directly)."""
    found: dict[str, tuple[str, ...]] = {
        "incompatible-order": ("G1a",),
        "dirty-update": ("G1a",),
        "thin-air-read": ("G1a",),
        "future-read": ("G1c",),
        "lost-update": ("G2-item",),
        "non-repeatable-read": ("G-single",),
        "fractured-read": (),
        "not-snapshot-isolated": ("not-snapshot-isolated-process",),
        "not-snapshot-isolated-process": ("not-snapshot-isolated-realtime",),
        "not-serializable": ("not-serializable-process",),
        "not-serializable-process": ("not-serializable-realtime",),
    }
    # G0 is a G1c whose wr edges happen to be none; G-single has no adjacent rw edges; and all of those are cycles.
    wider = {"G0": ("G1c",), "G-single": ("G-nonadjacent",), "G-nonadjacent": ("G2-item",)}
    for name in _CHAINS:
        for suffix, stronger in (("", "-process"), ("-process", "-realtime"), ("-realtime", "")):
            # A cycle without process edges is a trivial -process one, and processes do one thing at a time.
            more = (name + stronger,) if stronger else ()
            found[name + suffix] = tuple(other + suffix for other in wider.get(name, ())) + more
    return found


IMPLIED: Final = _implied()
ANOMALIES: Final = tuple(dict.fromkeys((*IMPLIED, *(name for level in _LEVELS for name in level.forbids))))
"""Every anomaly that may be named in a verdict."""


def level_named(model: str) -> Level:
    """The model of that name (Adya's and Elle's names are understood too).

    Raises:
        UsageError: no such model.
    """
    level = LEVELS.get(_ALIASES.get(model, model))
    if level is None:
        raise UsageError(
            f"no transactional consistency model is called {model!r}; there are {', '.join(TRANSACTION_MODELS)}"
        )
    return level


@cache
def implied_levels(model: str) -> frozenset[str]:
    """*model* and everything that it promises besides."""
    return _closure((model,), {name: level.implies for name, level in LEVELS.items()})


def implied_anomalies(anomalies: Iterable[str]) -> frozenset[str]:
    """*anomalies* and everything that they are cases of."""
    return _closure(anomalies, IMPLIED)


def ruled_out(anomalies: Iterable[str]) -> frozenset[str]:
    """All models that a history with these anomalies does not satisfy."""
    seen = implied_anomalies(anomalies)
    broken = {level.name for level in _LEVELS if not seen.isdisjoint(level.forbids)}
    return frozenset(name for name in LEVELS if not broken.isdisjoint(implied_levels(name)))


def boundary(anomalies: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the weakest models ruled out, the stronger ones that are ruled out with them), in the order of the table."""
    out = ruled_out(anomalies)
    weakest = {name for name in out if implied_levels(name) & out == {name}}
    return (
        tuple(name for name in LEVELS if name in weakest),
        tuple(name for name in LEVELS if name in out and name not in weakest),
    )


def _closure(start: Iterable[str], edges: dict[str, tuple[str, ...]]) -> frozenset[str]:
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(edges.get(name, ()))
    return frozenset(found)
