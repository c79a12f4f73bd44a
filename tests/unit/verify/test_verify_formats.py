"""Readers: every format, its traps, and errors that say where."""

import json

import pytest

from troth.errors import DecodeError, UsageError
from troth.verify.check import check
from troth.verify.completions import pair
from troth.verify.formats import FORMATS, detect, read_history, write_edn, write_jsonl
from troth.verify.formats.edn import Keyword, Record, dump, freeze, read_all
from troth.verify.guess import guess
from troth.verify.history import FOREVER, Event, EventType, History, Reading
from troth.verify.transactions import check_transactions

ETCD = (
    "INFO  jepsen.util - 0\t:invoke\t:write\t2\n"
    "INFO  jepsen.util - 1   :invoke :cas   [1 4]\n"
    "INFO  jepsen.core - something else entirely\n"
    'INFO  jepsen.util - :nemesis\t:info\t:start\t"Cut off {:n1 [n2"\n'
    "INFO  jepsen.util - 1\t:fail  :cas\t[1 4]\n"
    "INFO  jepsen.util - 2 :invoke :read nil\n"
    "\n"
    "INFO  jepsen.util - 2\t:fail\t:read\t:timed-out\n"
    "2016-01-01 10:00:00 INFO  jepsen.util - 0\t:info\t:write\t:timed-out\n"
    "INFO  jepsen.util - 3\t:invoke\t:read\tnil\n"
    "INFO  jepsen.util - 3\t:ok\t:read\tnil\n"
)
KV = (
    '{:process 0, :type :invoke, :f :put, :key "a", :value "x 1"}\n'
    '{:process 1, :type :invoke, :f :get, :key "a", :value nil}\n'
    '{:process 0, :type :ok, :f :put, :key "a", :value "x 1"}\n'
    '{:process 1, :type :ok, :f :get, :key "a", :value ""}\n'
)
KNOSSOS = """; a comment
[{:process 0, :type :invoke, :f :cas, :value [0 1], :time 5, :index 0}
 {:process :nemesis, :type :info, :f :start, :value nil}
 {:process 0 :type :fail :f :cas :value [0 1]} #_{:ignored true}
 {:process 1 :type :invoke :f :read :value nil}
 #jepsen.history.Op{:process 1 :type :ok :f :read :value nil}]
"""
ELLE = (
    "{:type :invoke, :process 3, :f :txn, :value [[:append 1 2] [:r 1 nil]]}\n"
    "{:type :ok, :process 3, :f :txn, :value [[:append 1 2] [:r 1 [2]]]}\n"
)
ELLE_JSON = (
    '[{"type":"invoke","process":0,"f":"txn","value":[["append",1,2],["r",1,null]],"time":1,"index":0},\n'
    '{"type":"ok","process":0,"f":"txn","value":[["append",1,2],["r",1,[2]]],"time":2,"index":1}]'
)
AWDIT = "w x 0\nw y 0\n-----\n=====\nr x 0\nw x 1\n---\nr y 0\n===\n"


@pytest.mark.parametrize(
    ("text", "format", "operations"),
    [
        ("", "empty", 0),
        (" \n\t\n", "empty", 0),
        ("; only a comment\n", "empty", 0),
        ("[]", "jepsen-json", 0),
        (ETCD, "jepsen-log", 4),
        (KV, "porcupine-kv", 2),
        (KNOSSOS, "jepsen-edn", 2),
        (ELLE, "elle-edn", 1),
        (ELLE_JSON, "elle-json", 1),
        ('{"process": 0, "type": "invoke", "f": "read"}\n', "jepsen-json", 1),
        ('{"troth_history": 1}\n{"process": 0, "type": "invoke", "f": "read"}\n', "troth-jsonl", 1),
        (AWDIT, "awdit", 3),
    ],
)
def test_format_is_found_out(text: str, format: str, operations: int) -> None:
    """From the text alone, as str and as bytes with a byte order mark."""
    for data in (text, text.encode(), b"\xef\xbb\xbf" + text.encode()):
        history = read_history(data, "some.file")
        assert (history.format, len(history)) == (format, operations)
    assert format == "empty" or format in FORMATS


def test_etcd_log_reads_a_failed_cas_as_an_observation() -> None:
    """Fields by tabs or spaces; timed-out reads are failures that say nothing; infos stay open; faults are kept."""
    history = read_history(ETCD)
    write, cas, lost, read = history.operations
    assert (write.outcome, write.returned, write.error) == (EventType.INFO, FOREVER, "timed-out")
    assert (cas.outcome, cas.argument, cas.error) == (EventType.FAIL, (1, 4), None)
    assert (lost.outcome, lost.error) == (EventType.FAIL, "timed-out")
    assert (read.outcome, read.result) == (EventType.OK, None)
    assert [fault.process for fault in history.faults] == ["nemesis"]
    assert history.reading == Reading(failed="observed")


def test_a_remark_behind_a_value_is_no_part_of_it() -> None:
    """Newer logs say behind every value when it took effect."""
    history = read_history(
        "INFO  jepsen.util - 3 \t:invoke :write \t54 \t:hint 0\nINFO  jepsen.util - 1 \t:invoke :read \tnil \t:hint 0\n"
        "INFO  jepsen.util - 3 \t:ok :write \t54 \t:hint 2\nINFO  jepsen.util - 1 \t:ok :read \tnil \t:hint 2\n"
    )
    assert [(op.argument, op.result) for op in history.operations] == [(54, 54), (None, None)]


def test_the_reading_of_a_failed_cas_decides_the_verdict() -> None:
    """A cas that failed although its value was there: illegal for Porcupine, nothing at all for Knossos."""
    text = "".join(
        f"INFO jepsen.util - 0 :{kind} :{f} {value}\n"
        for f, value, kinds in (("write", "1", ("invoke", "ok")), ("cas", "[1 2]", ("invoke", "fail")))
        for kind in kinds
    )
    observed = read_history(text)
    assert not check(observed, object="cas-register")
    absent = read_history(text, reading=Reading(failed="absent"))
    verdict = check(absent, object="cas-register")
    assert verdict and verdict.reading.failed == "absent"
    assert "never happened" in verdict.text()


def test_knossos_reads_nil_as_unknown_and_fail_as_absent() -> None:
    """A read of nil after a write is legal there, and illegal where nil is the initial value."""
    rows = [
        "{:process 0 :type :invoke :f :write :value 1}", "{:process 0 :type :ok :f :write :value 1}",
        "{:process 0 :type :invoke :f :read :value nil}", "{:process 0 :type :ok :f :read :value nil}",
    ]  # fmt: skip
    history = read_history("\n".join(rows))
    assert check(history, object="register")
    assert not check(history.with_reading(Reading()), object="register")


@pytest.mark.parametrize("more", ["", ", :time 7"], ids=["as Porcupine writes it", "with another field"])
def test_absent_keys_may_be_told_as_nil_or_as_nothing(more: str) -> None:
    """However the lines are spelled otherwise."""
    row = '{{:process 0, :type :{}, :f :{}, :key "a", :value {}}}'
    for absent in ("nil", '""'):
        asked = [
            ("invoke", "get", "nil"),
            ("ok", "get", absent),
            ("invoke", "append", '"x"'),
            ("ok", "append", '"x"'),
        ]
        rows = [row.format(*each) for each in (*asked, ("invoke", "get", "nil"), ("ok", "get", '"x"'))]
        history = read_history("\n".join([rows[0][:-1] + more + "}", *rows[1:]]), format="porcupine-kv")
        assert check(history, object="kv"), absent
        lost = read_history("\n".join([*rows, *rows[:2]]), format="porcupine-kv")
        assert not check(lost, object="kv")


def test_a_register_that_nobody_could_read_is_no_set() -> None:
    """Writes are additions only where a collection was read."""
    rows = [("write", "invoke", 1), ("write", "ok", 1), ("read", "invoke", None), ("read", "fail", None)]
    text = "".join(f'{{"process":0,"type":"{kind}","f":"{f}","value":{json.dumps(v)}}}\n' for f, kind, v in rows)
    assert guess(read_history(text)).object == "register"


def test_awdit_sessions_become_processes() -> None:
    """Dashes end transactions, equals signs end sessions."""
    history = read_history(AWDIT)
    assert [(op.process, op.argument) for op in history.operations] == [
        (0, (("w", "x", 0), ("w", "y", 0))),
        (1, (("r", "x", 0), ("w", "x", 1))),
        (1, (("r", "y", 0),)),
    ]


@pytest.mark.parametrize("text", [ETCD, KV, KNOSSOS, ELLE, ELLE_JSON])
def test_own_format_reads_back_what_was_written(text: str) -> None:
    """Operations, faults and reading survive; EDN keeps the operations."""
    history = read_history(text)
    back = read_history(write_jsonl(history))

    def bare(operations: object) -> list[object]:
        assert isinstance(operations, list)
        return [
            (op.process, op.f, op.key, op.argument, op.result, op.outcome, op.invoked, op.completed)
            for op in operations
        ]

    assert bare(back.operations) == bare(history.operations)
    assert back.reading == history.reading
    assert [fault.position for fault in back.faults] == [fault.position for fault in history.faults]
    again = read_history(write_edn(history))
    assert bare(again.operations) == bare(history.operations)


def recorded(value: object) -> History:
    """A write of *value* under names that are no keywords, and a fault."""
    return pair(
        [
            Event(
                type=EventType.INVOKE,
                process="client 1",
                f="put it",
                key="k",
                value=value,
                time=1,
                level="session",
            ),
            Event(type=EventType.OK, process="client 1", f="put it", key="k", value=value, time=2, revision=7),
            Event(type=EventType.INFO, process="nemesis", f="cut-off", value="half", error="none"),
        ]
    )


@pytest.mark.parametrize(
    "value",
    [
        Keyword("a/b"),
        (Record({("k", (1, Record({("in", None)})))}), 1.5, True, False, 'ü\n"\\'),
        10**30,
        Record(),
        (),
    ],
)
def test_values_are_written_so_that_they_are_read_back_equal(value: object) -> None:
    """A map inside a list used to become pairs, a keyword could not be written, nor a name with a blank in EDN."""
    history = recorded(value)
    for text in (write_jsonl(history), write_edn(history)):
        assert [*read_history(text).events()] == [*history.events()]


@pytest.mark.parametrize(
    "value", [frozenset({1, ("a", 2)}), Record({(1, "one"), (None, "nil")}), float("inf"), (float("-inf"),)]
)
def test_what_json_has_no_form_for_is_refused_and_edn_has_one(value: object) -> None:
    """JSON would have null for an infinity, a list for a set, "1" for the key 1: other values, and another verdict."""
    history = recorded(value)
    with pytest.raises(UsageError, match="JSON has no form for"):
        write_jsonl(history)
    with pytest.raises(UsageError, match="JSON has no form for"):
        write_jsonl(recorded(("in", value)))
    assert [*read_history(write_edn(history)).events()] == [*history.events()]
    assert [*read_history(write_edn(recorded(("in", value)))).events()] == [*recorded(("in", value)).events()]


def test_what_neither_has_a_form_for_is_refused() -> None:
    for write in (write_jsonl, write_edn):
        with pytest.raises(UsageError, match="no form for b'"):
            write(recorded(b"bytes"))
        with pytest.raises(UsageError, match=r"lone surrogate\): '.udc00'"):
            write(recorded("half \udc00"))
    with pytest.raises(UsageError, match="nan"):
        write_jsonl(recorded(float("nan")))
    assert ":value ##NaN" in write_edn(recorded(float("nan")))


@pytest.mark.parametrize(
    ("text", "where", "expected"),
    [
        ("{:process 0, :type :invoke", "line 1, column 27", "'}'"),
        ("[{:a 1}\n {:b 2)]", "line 2, column 7", "'}'"),
        ('[{:process 0 :type :invoke :f :read :value "abc}]', "line 1, column 44", "a closing quote"),
        ("[{:a}]", "line 1, column 5", "an even number"),
        ("{:process 0 :type :odd :f :read}", "line 1", "invoke, ok, fail or info"),
        ("{:process [] :type :ok :f :read}", "line 1", "an integer or a name"),
        ('{"process": 0,\n', "line 1", "JSON"),
        ('{"process": 0, "type": "invoke", "f": "read"}\n[1]\n', "line 2", "an event object"),
        ('{"troth_history": 2}\n', "line 1", "version 1"),
        ('{"troth_history": 1, "failed": "maybe"}\n', "line 1", "'absent' or 'observed'"),
        ("INFO jepsen.util - 0 invoke read\n", "line 1", "<process> :invoke|:ok|:fail|:info"),
        ("INFO jepsen.util - 0 :invoked :read nil\n", "line 1", ":invoke, :ok, :fail or :info"),
        ("INFO jepsen.util - 0 :invoke :write [1\n", "line 1", "an EDN value"),
        ("w x 1\nq x 1\n", "line 2, column 1", "'r KEY VALUE'"),
        ("hello", "line 1, column 1", "a JSON or EDN event"),
        (
            "{:process 0 :type :invoke :f :read}\n{:process 0 :type :invoke :f :read}",
            "line 2",
            "a completion of read",
        ),
        (
            "{:process 0 :type :invoke :f :read}\n{:process 0 :type :ok :f :write}",
            "line 2",
            "a completion of that",
        ),
        ("{:process 0 :type :invoke :f :read}\n{:process 1 :type :ok :f :read}", "line 2", "an invoke first"),
        ("{:type :ok :process 0 :f :txn :value [[:append 1]]}", "line 1", "[f key value]"),
        ("42 {:a 1}", "line 1, column 1", "one of"),
        ("({:a 1}) 42", "line 1", "invoke, ok, fail or info"),
    ],
)
def test_bad_input_names_place_and_expectation(text: str, where: str, expected: str) -> None:
    """Always a DecodeError with the file's name, never anything else."""
    with pytest.raises(DecodeError) as caught:
        read_history(text, "bad.log")
    message = str(caught.value)
    assert message.startswith("bad.log: ") and where in message and expected in message


def test_bytes_that_are_not_utf8_are_refused() -> None:
    """With the place of the first wrong one."""
    with pytest.raises(DecodeError, match=r"line 2, column 3: found byte 0xff, expected UTF-8"):
        read_history(b"ab\ncd\xff")


def test_unknown_format_is_a_usage_error() -> None:
    """And names the ones there are."""
    with pytest.raises(UsageError, match="awdit"):
        read_history("", format="yaml")


def test_every_prefix_of_a_file_reads_or_is_refused() -> None:
    """A torn file never ends in anything but a history or a DecodeError."""
    for text in (ETCD, KV, KNOSSOS, ELLE, ELLE_JSON, AWDIT):
        for end in range(len(text)):
            try:
                read_history(text[:end])
            except DecodeError as error:
                assert "line" in str(error)


def test_edn_values() -> None:
    """The whole notation, as far as histories use it."""
    text = (
        r'[nil true false 7 -3N 1.5 2.5M 1/2 "a\n\"\u0041" \a \newline :k/w sym #{1 2} {:a [1]} #inst "2020" #_ 1]'
    )
    ((value, offset),) = list(read_all(text))
    assert offset == 0
    assert isinstance(value, tuple)
    assert value[:12] == (None, True, False, 7, -3, 1.5, 2.5, 0.5, 'a\n"A', "a", "\n", "k/w")
    assert value[12:] == ("sym", frozenset({1, 2}), {"a": (1,)}, "2020")
    assert repr(value[11]) == ":k/w"
    frozen = freeze(value)
    assert hash(frozen) is not None
    assert dump(Record({(Keyword("a"), (1, None))})) == "{:a [1 nil]}"
    strange = r'[\formfeed \backspace \o101 \f \u0041 #object[a.B 0x1f "x"] #_ #_ 1 2 3]'
    assert [value for value, _ in read_all(strange)] == [("\f", "\b", "A", "f", "A", ("a.B", 31, "x"), 3)]


@pytest.mark.parametrize("space", [" " * 5000, ", " * 2500, ";" * 5000 + "\n", "; a, b\n" * 1000])
def test_what_fits_no_token_after_much_space_is_refused_at_once(space: str) -> None:
    """Space before a token must not be tried in every partition."""
    with pytest.raises(DecodeError, match="expected a value"):
        list(read_all("{:value " + space + "12abc}"))


@pytest.mark.parametrize(
    "line",
    [
        "{{:process 0, :type :invoke, :f :write, :value {}}}",
        '{{"process": 0, "type": "invoke", "f": "write", "value": {}}}',
        "w 1 {}",
        "INFO jepsen.util - 0 :invoke :write {}",
    ],
)
def test_integers_without_end_are_a_decode_error(line: str) -> None:
    """Python itself refuses them with an error of its own."""
    with pytest.raises(DecodeError, match="odd"):
        read_history(line.format("1" * 5000), "odd")


def test_detect_prefers_the_header() -> None:
    """A header of our own format settles it."""
    assert detect('{"troth_history": 1, "failed": "observed"}') == "troth-jsonl"


@pytest.mark.parametrize("between", [" ", "\n"])
@pytest.mark.parametrize("form", ["[{}]", "{}"])
def test_transactions_without_a_process_are_sessions_of_their_own(form: str, between: str) -> None:
    """However they are laid out: the reader stands before the writer, which says nothing about their order."""
    rows = ["{:type :ok, :f :txn, :value [[:r :x [1]]]}", "{:type :ok, :f :txn, :value [[:append :x 1]]}"]
    history = read_history(form.format(between.join(rows)))
    assert len({op.process for op in history.operations}) == 2
    assert check_transactions(history, model="strong-session-serializable")
    if form == "[{}]":
        rows = [
            '{"type": "ok", "f": "txn", "value": [["r", "x", [1]]]}',
            '{"type": "ok", "value": [["append", "x", 1]]}',
        ]
        assert len({op.process for op in read_history(form.format(f",{between}".join(rows))).operations}) == 2


def test_leases_in_an_array_on_one_line_are_told_apart() -> None:
    """Each may delete its key at any time."""
    rows = []
    for process in (0, 1):
        put = {"process": process, "f": "put", "key": f"k{process}", "value": "1"}
        rows += [{**put, "type": "invoke", "lease": 7}, {**put, "type": "ok"}]
    history = read_history(json.dumps(rows))
    assert [op.f for op in history.operations] == ["put", "delete", "put", "delete"]


def test_faults_keep_their_place_where_operations_are_taken_apart() -> None:
    """Between what came before and what came after, though a span and a drain become several operations."""
    fault = {"process": "nemesis", "type": "info", "f": "start"}
    span = {"process": 0, "f": "range", "value": ["a", "z"]}
    puts = [
        {"process": 1, "type": kind, "f": "put", "key": key, "value": "1"}
        for key in "bcd"
        for kind in ("invoke", "ok")
    ]
    rows = [*puts, {**span, "type": "invoke"}, {**span, "type": "ok", "value": [["b", "1"]]}, fault, *puts]
    history = read_history("".join(json.dumps(row) + "\n" for row in rows))
    assert len(history) == 9 and history.remarks[0].endswith(": 1 operation on spans")
    place = history.faults[0].position
    assert [op.f for op in history.operations if op.completed < place] == ["put"] * 3 + ["get"] * 3
    assert [op.f for op in history.operations if op.invoked > place] == ["put"] * 3


@pytest.mark.parametrize("text", [AWDIT, "w(x,1,0,0)\nr(x,1,1,1)\n"])
def test_an_awdit_text_may_begin_with_a_comment(text: str) -> None:
    commented = read_history("# made by a tool\n#\n" + text)
    assert commented.format == "awdit"
    assert [op.argument for op in commented.operations] == [op.argument for op in read_history(text).operations]


def test_a_nemesis_may_have_a_name_behind_that() -> None:
    """With several of them; each invokes and completes, as no client does."""
    history = read_history(
        "{:process :nemesis-1, :type :invoke, :f :kill, :value nil}\n"
        "{:process 0, :type :invoke, :f :write, :value 1}\n"
        "{:process :nemesis-1, :type :ok, :f :kill, :value nil}\n"
        "{:process :nemesis-1, :type :ok, :f :kill, :value nil}\n"
        "{:process 0, :type :ok, :f :write, :value 1}\n"
    )
    assert len(history) == 1 and len(history.faults) == 3


def test_a_regular_expression_is_read_as_its_text() -> None:
    assert [value for value, _ in read_all('#"a\\d\\"b" #{#""}')] == ['a\\d\\"b', frozenset({""})]
