"""What single lines of the formats mean, where another meaning would change a verdict."""

import json

import pytest

from troth.errors import DecodeError
from troth.verify.check import check
from troth.verify.formats.edn import read_all
from troth.verify.formats.read import read_history
from troth.verify.history import EventType, History, Value
from troth.verify.recorder import Recorder
from troth.verify.transactions import check_transactions


def lines(*rows: dict[str, Value]) -> History:
    return read_history('{"troth_history": 1}\n' + "".join(json.dumps(row) + "\n" for row in rows))


def test_every_escape_of_a_string_is_its_character() -> None:
    ((value, _),) = read_all(r'"\n\t\r\b\f\"\\\/"')
    assert value == '\n\t\r\b\f"\\/'


def test_numbers_of_a_log_keep_their_sign_and_processes_all_digits() -> None:
    history = read_history(
        "".join(
            f"INFO jepsen.util - {process} :{kind} :{f} {value}\n"
            for kind, process, f, value in (
                ("invoke", 1, "write", "-3"),
                ("invoke", 11, "cas", "[-3 -4]"),
                ("ok", 11, "cas", "[-3 -4]"),
                ("ok", 1, "write", "-3"),
            )
        )
    )
    assert [(op.process, op.argument) for op in history.operations] == [(1, -3), (11, (-3, -4))]
    assert check(history, object="cas-register")


def test_transactions_of_a_session_stand_in_the_order_of_the_file() -> None:
    """Whatever their numbers, and whichever is longer; and every key starts as 0."""
    text = "r(1,0,5,9)\nr(2,0,5,9)\nw(1,7,5,3)\nr(1,7,5,4)\nr(2,0,5,4)\n"
    history = read_history(text)
    assert [len(op.argument) for op in history.operations if isinstance(op.argument, tuple)] == [2, 1, 2]
    for model in ("strong-session-serializable", "causal", "read-committed"):
        assert check_transactions(history, "rw-register", model), model
        assert not check_transactions(read_history(text.replace("r(2,0,5,9)", "r(2,5,5,9)")), "rw-register", model)


def test_nil_in_a_text_of_sessions_is_nothing() -> None:
    history = read_history("r x nil\nw x 1\n---\nr x 1\n===\n")
    assert [op.argument for op in history.operations] == [(("r", "x", None), ("w", "x", 1)), (("r", "x", 1),)]
    assert check_transactions(history, "rw-register", "strong-session-serializable")


def test_registers_of_knossos_start_as_the_first_read_says() -> None:
    """A later one, before any write of what it saw was invoked, may see what a write that crashed has made."""
    steps = (
        (1, "invoke", "[[:read :x nil]]"),
        (2, "invoke", "[[:write :x 5]]"),
        (1, "ok", "[[:read :x 0]]"),
        (1, "invoke", "[[:read :x nil]]"),
        (1, "ok", "[[:read :x 3]]"),
    )
    text = "".join(f"{{:type :{kind}, :f :txn, :value {value}, :process {who}}}\n" for who, kind, value in steps)
    history = read_history(text)
    assert history.reading.initial == 0
    assert not check(history, object="multi-register")


def test_a_nemesis_may_invoke_what_it_pleases() -> None:
    history = lines(
        {"process": "nemesis", "type": "invoke", "f": "start"},
        {"process": 0, "type": "invoke", "f": "write", "value": 1},
        {"process": "nemesis", "type": "invoke", "f": "start"},
        {"process": 0, "type": "ok", "f": "write", "value": 1},
        {"process": "nemesis", "type": "ok", "f": "stop"},
    )
    assert [op.f for op in history.operations] == ["write"] and [each.f for each in history.faults] == [
        "start",
        "start",
        "stop",
    ]


def test_an_answer_about_another_key_is_refused() -> None:
    with pytest.raises(DecodeError, match=r"completes get .* expected a completion of that"):
        lines(
            {"process": 0, "type": "invoke", "f": "get", "key": "a"},
            {"process": 0, "type": "ok", "f": "get", "key": "b", "value": "1"},
        )


def put(process: int, key: str, value: str) -> list[dict[str, Value]]:
    asked: dict[str, Value] = {"process": process, "f": "put", "key": key, "value": value}
    return [{**asked, "type": "invoke"}, {**asked, "type": "ok"}]


def shown(process: int, span: list[str], *found: list[str]) -> list[dict[str, Value]]:
    asked: dict[str, Value] = {"process": process, "f": "range", "value": span}
    return [{**asked, "type": "invoke"}, {**asked, "type": "ok", "value": list(found)}]


def test_a_span_ends_before_its_end() -> None:
    both = [*put(0, "a", "1"), *put(0, "b", "2")]
    assert check(lines(*both, *shown(1, ["a", "b"], ["a", "1"])))
    assert not check(lines(*both, *shown(1, ["a", "c"], ["a", "1"])))
    # A zero byte stands for the last key.
    assert not check(lines(*both, *shown(1, ["a", "\0"], ["a", "1"])))
    assert check(lines(*both, *shown(1, ["b", "\0"], ["b", "2"])))


def test_what_only_a_span_shows_is_a_key_all_the_same() -> None:
    verdict = check(lines(*put(0, "a", "1"), *shown(1, ["a", "c"], ["a", "1"], ["b", "of nobody"])))
    assert not verdict and '"b"' in verdict.text()


@pytest.mark.parametrize("kind", ["info", "ok", "fail"])
def test_a_crashed_deletion_of_a_span_may_have_happened(kind: str) -> None:
    asked: dict[str, Value] = {"process": 1, "f": "delete-range", "value": ["a", "c"]}
    deleted = [{**asked, "type": "invoke"}, {**asked, "type": kind}]
    looks = {value: [*shown(2, ["a", "b"], *found)] for value, found in (("1", [["a", "1"]]), (None, []))}
    legal = {value for value, look in looks.items() if check(lines(*put(0, "a", "1"), *deleted, *look))}
    assert legal == {"info": {"1", None}, "ok": {None}, "fail": {"1"}}[kind]


def test_a_recorder_keeps_what_it_is_told() -> None:
    recorder = Recorder()
    recorder.invoke(0, "cas", key="x", value=(1, 2), time=1)
    recorder.fail(0, value=(1, 2), error="not 1", time=2)
    recorder.invoke(1, "get", key="y", time=3)
    recorder.info(1, error="lost", time=4)
    failed, lost = recorder.history().operations
    assert (failed.outcome, failed.key, failed.result, failed.error) == (EventType.FAIL, "x", (1, 2), "not 1")
    assert (lost.outcome, lost.key, lost.result, lost.error) == (EventType.INFO, "y", None, "lost")
