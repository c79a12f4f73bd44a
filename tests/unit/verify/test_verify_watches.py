"""Watches beside the updates that they show: every promise, and what breaks it."""

import json

import pytest

from troth.errors import UsageError
from troth.verify.check import check
from troth.verify.formats.read import read_history
from troth.verify.formats.write import write_jsonl
from troth.verify.history import History
from troth.verify.report.page import html
from troth.verify.verdict import Status

Row = dict[str, object]


def update(f: str, key: str | None, value: object, revision: int | None, process: int = 0) -> list[Row]:
    asked = {"process": process, "f": f, "key": key, "value": value}
    return [{**asked, "type": "invoke"}, {**asked, "type": "ok", "revision": revision}]


def delivery(
    first: int, upto: int, *events: list[object], watch: str = "watch/1", span: tuple[str, str] = ("a", "c")
) -> Row:
    return {"process": watch, "type": "info", "f": "watch", "value": [*span, first, upto, list(events)]}


def history(*rows: Row | list[Row]) -> History:
    flat = [row for each in rows for row in (each if isinstance(each, list) else [each])]
    return read_history("".join(json.dumps(row) + "\n" for row in flat))


UPDATES = [
    update("put", "a", "1", 2),
    update("put", "z", "not watched", 3),
    update("cas", "b", [None, "2"], 4),
    update("delete", "a", None, 5),
    update("delete", "a", None, None),
    update("txn", None, [["r", "a", None], ["w", "a", "3"], ["w", "b", None], ["w", "y", "-"]], 6),
]
SHOWN: list[list[object]] = [[2, "a", "1"], [4, "b", "2"], [5, "a", None], [6, "a", "3"]]


def test_a_watch_that_is_shown_everything_is_right() -> None:
    for rest in ([[6, "a", "3"]], [[6, "a", "3"], [6, "b", None], [7, "b", "of somebody who is not recorded"]]):
        told = history(*UPDATES, delivery(1, 4, *SHOWN[:2]), delivery(5, 7, SHOWN[2], *rest))
        verdict = check(told, "watch")
        assert verdict, verdict.text()
        assert verdict.parts[0].events == 3 + len(rest)
        # Every other check passes it over, and what is written is read again.
        assert "watch" not in {op.f for op in told.operations}
        assert check(read_history(write_jsonl(told)), "watch")
        assert "watch/1: watch" not in html(verdict, title="run", command="")


@pytest.mark.parametrize(
    ("anomaly", "deliveries"),
    [
        ("watch-misses", [delivery(1, 6, *SHOWN[:3])]),
        ("watch-misses", [delivery(1, 6, SHOWN[0], *SHOWN[2:])]),
        ("watch-misses", [delivery(1, 4, *SHOWN[:2]), delivery(5, 6, SHOWN[3])]),
        ("watch-misses", [delivery(1, 2, SHOWN[0]), delivery(5, 6, *SHOWN[2:])]),
        ("watch-misses", [delivery(4, 4, span=("b", ""))]),
        ("watch-misses", [delivery(3, 3, span=("z", "\0"))]),
        ("watch-repeats", [delivery(1, 6, *SHOWN, SHOWN[3])]),
        ("watch-repeats", [delivery(1, 4, *SHOWN[:2]), delivery(4, 6, *SHOWN[1:])]),
        ("watch-goes-back", [delivery(1, 6, SHOWN[1], SHOWN[0], *SHOWN[2:])]),
        ("watch-goes-back", [delivery(1, 7, *SHOWN), delivery(7, 8, [7, "b", "late"])]),
        ("watch-strays", [delivery(1, 5, *SHOWN)]),
        ("watch-strays", [delivery(3, 6, *SHOWN)]),
        ("watch-strays", [delivery(1, 6, SHOWN[0], [3, "z", "not watched"], *SHOWN[1:])]),
        ("watch-strays", [delivery(4, 7, SHOWN[1], [7, "bb", "?"], span=("b", ""))]),
        ("watch-lies", [delivery(1, 6, [2, "a", "wrong"], *SHOWN[1:])]),
        ("watch-lies", [delivery(1, 6, SHOWN[0], [4, "b", None], *SHOWN[2:])]),
        ("watch-lies", [delivery(1, 6, SHOWN[0], SHOWN[1], [4, "bb", "not of that cas"], *SHOWN[2:])]),
        ("watch-lies", [delivery(1, 6, *SHOWN[:3], [6, "a", "4"])]),
        ("watch-lies", [delivery(1, 7, *SHOWN, [7, "a", "4"]), delivery(7, 7, [7, "a", "5"], watch="watch/2")]),
    ],
)
def test_each_promise_can_be_broken(anomaly: str, deliveries: list[Row]) -> None:
    verdict = check(history(*UPDATES, *deliveries), "watch")
    assert verdict.status is Status.ILLEGAL
    assert verdict.anomalies == (anomaly,), verdict.text()
    assert verdict.counterexample is not None and anomaly in verdict.text()
    assert anomaly in html(verdict, title="run", command="")


def test_between_deliveries_nothing_may_have_happened() -> None:
    """Revisions that were not spoken of are in order where none of them is of the span."""
    assert check(history(*UPDATES, delivery(1, 2, SHOWN[0]), delivery(4, 6, *SHOWN[1:])), "watch")


def test_nothing_is_shown_before_it_was_asked_for() -> None:
    early = check(history(delivery(1, 2, [2, "a", "1"]), update("put", "a", "1", 2)), "watch")
    # What was known before the update cannot be the revision that it made.
    assert early.anomalies == ("revision-goes-back", "watch-foresees")
    overlapping = [*update("put", "a", "1", 2)]
    overlapping.insert(1, delivery(1, 2, [2, "a", "1"]))
    assert check(history(overlapping), "watch")


def test_revisions_grow_with_time() -> None:
    shown = delivery(1, 1)
    assert check(history(update("put", "a", "1", 3), update("put", "a", "2", 3), shown), "watch").anomalies == (
        "revision-goes-back",
    )
    back = check(history(update("put", "a", "1", 3), update("put", "a", "2", 2), shown), "watch")
    assert back.anomalies == ("revision-goes-back",)
    assert back.counterexample is not None and back.counterexample.involved == (1,)
    concurrent = [
        {"process": 0, "type": "invoke", "f": "put", "key": "a", "value": "1"},
        *update("put", "a", "2", 3, process=1),
        {"process": 0, "type": "ok", "f": "put", "key": "a", "value": "1", "revision": 2},
    ]
    assert check(history(concurrent, shown), "watch")


def test_without_a_watch_nothing_is_known() -> None:
    assert check(history(*UPDATES), "watch").status is Status.UNKNOWN


@pytest.mark.parametrize("value", [None, ["a", "b", 1, 2], ["a", "b", 1, 2, [[1, "a"]]], ["a", "b", "1", 2, []]])
def test_what_is_no_delivery_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="a watch is"):
        check(history({"process": "w", "type": "info", "f": "watch", "value": value}), "watch")
