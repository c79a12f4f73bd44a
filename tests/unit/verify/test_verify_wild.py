# ruff: noqa: E501 - lines are as they were written
"""Histories as other people's tools write them: what is read, and what it is taken for."""

import gzip
import json
import re

import pytest
from msgspec import structs

from troth.errors import DecodeError, UsageError
from troth.verify.check import check
from troth.verify.completions import pair
from troth.verify.formats import read_history
from troth.verify.formats.edn import Record
from troth.verify.guess import guess
from troth.verify.history import Value
from troth.verify.transactions import check_transactions
from troth.verify.verdict import Status

WILD = {
    "a log of newer Jepsen": (
        (
            "2023-02-13 12:00:01,123{GMT}\tINFO\t[jepsen worker 0] jepsen.util: 0\t:invoke\t:read\tnil\n"
            "2023-02-13 12:00:01,124{GMT}\tINFO\t[jepsen worker 0] jepsen.util: 0\t:ok\t:read\tnil\n"
            '2023-02-13 12:00:01,124{GMT}\tINFO\t[jepsen nemesis] jepsen.util: :nemesis\t:info\t:start-partition\t{"n1" #{"n2"}, "n3" #{}}\n'
            "2023-02-13 12:00:01,124{GMT}\tWARN\t[jepsen worker 1] jepsen.client - Error\n"
            "java.net.SocketTimeoutException: Read timed out\n"
            "\tat java.net.Foo.bar(Foo.java:12)\n"
            "2023-02-13 12:00:01,124{GMT}\tINFO\t[jepsen worker 1] jepsen.util: 1\t:invoke\t:write\t3\n"
            "2023-02-13 12:00:01,124{GMT}\tINFO\t[jepsen worker 1] jepsen.util: 1\t:info\t:write\t3\t:timed-out\n"
        ),
        "jepsen-log",
        2,
        1,
        "register",
        "linearizable",
    ),
    "CRLF": (
        ("INFO  jepsen.util - 0\t:invoke\t:read\tnil\r\nINFO  jepsen.util - 0\t:ok\t:read\tnil\r\n"),
        "jepsen-log",
        1,
        0,
        "register",
        "linearizable",
    ),
    "independent": (
        (
            "{:type :invoke, :f :read, :value [1 nil], :process 0, :time 1, :index 0}\n"
            "{:type :invoke, :f :cas, :value [2 [1 3]], :process 1, :time 2, :index 1}\n"
            "{:type :ok, :f :read, :value [1 4], :process 0, :time 3, :index 2}\n"
            "{:type :fail, :f :cas, :value [2 [1 3]], :process 1, :time 4, :index 3}\n"
            "{:type :info, :f :start, :process :nemesis, :time 5, :value nil}\n"
            "{:type :invoke, :f :write, :value [1 3], :process 0, :time 6, :index 0}\n"
            "{:type :info, :f :write, :value [1 3], :process 0, :time 6, :index 0, :error :timeout}\n"
        ),
        "jepsen-edn",
        3,
        1,
        "cas-register",
        "linearizable",
    ),
    "tagged tuples": (
        (
            "{:type :invoke, :f :read, :value #jepsen.independent/tuple [1 nil], :process 0, :time 1, :index 0}\n"
            "{:type :invoke, :f :cas, :value [2 [1 3]], :process 1, :time 2, :index 1}\n"
            "{:type :ok, :f :read, :value [1 4], :process 0, :time 3, :index 2}\n"
            "{:type :fail, :f :cas, :value [2 [1 3]], :process 1, :time 4, :index 3}\n"
            "{:type :info, :f :start, :process :nemesis, :time 5, :value nil}\n"
            "{:type :invoke, :f :write, :value [1 3], :process 0, :time 6, :index 0}\n"
            "{:type :info, :f :write, :value [1 3], :process 0, :time 6, :index 0, :error :timeout}\n"
        ),
        "jepsen-edn",
        3,
        1,
        "cas-register",
        "linearizable",
    ),
    "history records": (
        (
            "#jepsen.history.Op{:index 0, :time 1, :type :invoke, :process 0, :f :txn, :value [[:append 1 2] [:r 1 nil]]}\n"
            "#jepsen.history.Op{:index 1, :time 2, :type :ok, :process 0, :f :txn, :value [[:append 1 2] [:r 1 [2]]]}\n"
        ),
        "elle-edn",
        1,
        0,
        "list-append",
        "strict-serializable",
    ),
    "bank": (
        (
            "{:type :invoke, :f :transfer, :value {:from 1, :to 2, :amount 3}, :process 0}\n"
            "{:type :invoke, :f :read, :process 1}\n"
            "{:type :ok, :f :read, :value {1 10, 2 10}, :process 1}\n"
            "{:type :fail, :f :transfer, :value {:from 1, :to 2, :amount 3}, :process 0, :error [:negative 1 -3]}\n"
        ),
        "jepsen-edn",
        2,
        0,
        "bank",
        "scan",
    ),
    "set": (
        (
            "{:type :invoke, :f :add, :value 0, :process 0}\n"
            "{:type :ok, :f :add, :value 0, :process 0}\n"
            "{:type :invoke, :f :read, :value nil, :process 1}\n"
            "{:type :ok, :f :read, :value [0], :process 1}\n"
            "{:type :invoke, :f :read, :value nil, :process 1}\n"
            "{:type :ok, :f :read, :value #{0}, :process 1}\n"
        ),
        "jepsen-edn",
        3,
        0,
        "set",
        "linearizable",
    ),
    "counter": (
        (
            "{:type :invoke, :f :add, :value 1, :process 0}\n"
            "{:type :ok, :f :add, :value 1, :process 0}\n"
            "{:type :invoke, :f :read, :process 1}\n"
            "{:type :ok, :f :read, :value 1, :process 1}\n"
        ),
        "jepsen-edn",
        2,
        0,
        "counter",
        "linearizable",
    ),
    "queue with a drain": (
        (
            "{:type :invoke, :f :enqueue, :value 1, :process 0}\n"
            "{:type :ok, :f :enqueue, :value 1, :process 0}\n"
            "{:type :invoke, :f :dequeue, :process 1}\n"
            "{:type :ok, :f :dequeue, :value 1, :process 1}\n"
            "{:type :invoke, :f :dequeue, :process 1}\n"
            "{:type :fail, :f :dequeue, :process 1, :error :exhausted}\n"
            "{:type :invoke, :f :drain, :process 1}\n"
            "{:type :ok, :f :drain, :value [], :process 1}\n"
        ),
        "jepsen-edn",
        4,
        0,
        "unordered-queue",
        "linearizable",
    ),
    "mutex": (
        (
            "{:type :invoke, :f :acquire, :process 0}\n"
            "{:type :ok, :f :acquire, :process 0}\n"
            "{:type :invoke, :f :release, :process 0}\n"
            "{:type :ok, :f :release, :process 0}\n"
        ),
        "jepsen-edn",
        2,
        0,
        "mutex",
        "linearizable",
    ),
    "long fork as txn": (
        (
            "{:type :invoke, :f :txn, :value [[:w 1 1]], :process 0}\n"
            "{:type :ok, :f :txn, :value [[:w 1 1]], :process 0}\n"
            "{:type :invoke, :f :txn, :value [[:r 1 nil] [:r 2 nil]], :process 1}\n"
            "{:type :ok, :f :txn, :value [[:r 1 1] [:r 2 nil]], :process 1}\n"
        ),
        "elle-edn",
        2,
        0,
        "rw-register",
        "strict-serializable",
    ),
    "long fork as read and write": (
        (
            "{:type :invoke, :f :write, :value [[:w 1 1]], :process 0}\n"
            "{:type :ok, :f :write, :value [[:w 1 1]], :process 0}\n"
            "{:type :invoke, :f :read, :value [[:r 1 nil] [:r 2 nil]], :process 1}\n"
            "{:type :ok, :f :read, :value [[:r 1 1] [:r 2 nil]], :process 1}\n"
        ),
        "elle-edn",
        2,
        0,
        "long-fork",
        "scan",
    ),
    "Knossos multi-register": (
        (
            "[{:process 0 :type :invoke :f :txn :value [[:write :x 1] [:read :y nil]]}\n"
            "{:process 0 :type :ok :f :txn :value [[:write :x 1] [:read :y 0]]}\n"
            "{:process 0 :type :invoke :f :txn :value [[:write :x 1]]}\n"
            "{:process 0 :type :ok :f :txn :value [[:write :x 1]]}]\n"
        ),
        "jepsen-edn",
        2,
        0,
        "multi-register",
        "linearizable",
    ),
    "EDN with strings for names": (
        ('{"process" 0 "type" :invoke "f" :read}\n{"process" 0 "type" :ok "f" :read "value" 3.5}\n'),
        "jepsen-edn",
        1,
        0,
        "register",
        "linearizable",
    ),
    "specials, namespaces, exceptions": (
        '[{:process 0, :type :invoke, :f :write, :value ##Inf} {:process 0 :type :ok :f :write :value #:foo{:a 1} :error #error{:cause "x" :via [{:type java.lang.Foo}] :trace [[a.b$c <init> "F.java" 3]]}} ]',
        "jepsen-edn",
        1,
        0,
        "register",
        "linearizable",
    ),
    "a trace that names jepsen.util": (
        (
            "{:process 0, :type :invoke, :f :write, :value 1}\n"
            '{:process 0 :type :info :f :write :value 1 :error "at jepsen.util - 0 :invoke :f"}'
        ),
        "jepsen-edn",
        1,
        0,
        "register",
        "linearizable",
    ),
    "JSON with colons, a large number": (
        (
            '{"process": ":nemesis", "type": ":info", "f": ":start", "value": {"a": [1]}}\n'
            '{"process": 1, "type": ":invoke", "f": ":read"}\n'
            '{"process": 1, "type": ":ok", "f": ":read", "value": 12345678901234567890123}\n'
        ),
        "jepsen-json",
        1,
        1,
        "register",
        "linearizable",
    ),
    "separators within a string": (
        '{"process": 1, "type": "invoke", "f": "write", "value": "a\u2028b\x85"}\n',
        "jepsen-json",
        1,
        0,
        "register",
        "linearizable",
    ),
    "comments and discards first": (
        ("   \n\n; c\n#_{:a 1}\n{:process 0, :type :invoke, :f :read, :value nil}"),
        "jepsen-edn",
        1,
        0,
        "register",
        "linearizable",
    ),
    "Elle without processes": (
        ("{:type :ok, :value [[:append :x 1] [:r :y [1]]]}\n{:type :ok, :value [[:append :y 1]]}"),
        "elle-edn",
        2,
        0,
        "list-append",
        "strong-session-serializable",
    ),
    "Elle without f": (
        "[{:index 0 :type :invoke :process 0 :value [[:w :x 1]]} {:index 1 :type :ok :process 0 :value [[:w :x 1]]}]",
        "elle-edn",
        1,
        0,
        "rw-register",
        "strict-serializable",
    ),
    "AWDIT with spaces": (
        (" w  1  5 \n---\nr 1 5\n====\nr 2 nil\n"),
        "awdit",
        3,
        0,
        "rw-register",
        "strong-session-serializable",
    ),
    "kv with tabs and escapes": (
        (
            '{:process 0,\t:type :invoke,\t:f :put,\t:key "a b",\t:value "x \\"y\\""}\n'
            '{:process 0, :type :ok, :f :put, :key "a b", :value "x \\"y\\""}\n'
            '{:process 1, :type :invoke, :f :get, :key "a b", :value nil}\n'
            '{:process 1, :type :ok, :f :get, :key "a b", :value "x \\"y\\""}\n'
        ),
        "porcupine-kv",
        2,
        0,
        "kv",
        "linearizable",
    ),
    "put without a key": (
        ("{:process 0, :type :invoke, :f :put, :value 3}\n{:process 0, :type :ok, :f :put, :value 3}\n"),
        "jepsen-edn",
        1,
        0,
        "kv",
        "linearizable",
    ),
    "other loggers only": (
        "INFO  jepsen.core - starting\n",
        "jepsen-log",
        0,
        0,
        "register",
        "linearizable",
    ),
    "a process goes on after info": (
        (
            "INFO  jepsen.util - 0\t:invoke\t:write\t1\n"
            "INFO  jepsen.util - 0\t:info\t:write\t:timed-out\n"
            "INFO  jepsen.util - 0\t:invoke\t:read\tnil\n"
            "INFO  jepsen.util - 0\t:ok\t:read\t1\n"
        ),
        "jepsen-log",
        2,
        0,
        "register",
        "linearizable",
    ),
    "info without invoke": (
        "INFO  jepsen.util - 7\t:info\t:write\t:crashed\n",
        "jepsen-log",
        0,
        1,
        "register",
        "linearizable",
    ),
    "cas with commas, timed out": (
        ("INFO  jepsen.util - 0\t:invoke\t:cas\t[0, 4]\nINFO  jepsen.util - 0\t:fail\t:cas\t:timed-out\n"),
        "jepsen-log",
        1,
        0,
        "cas-register",
        "linearizable",
    ),
    "JSON laid out in lines": (
        (
            "[\n"
            "  {\n"
            '    "process": 0,\n'
            '    "type": "invoke",\n'
            '    "f": "txn",\n'
            '    "value": [\n'
            ' ["append", 1, 2]\n'
            "]\n"
            "  }\n"
            "]\n"
        ),
        "elle-json",
        1,
        0,
        "list-append",
        "strict-serializable",
    ),
    "negative, big, decimal": (
        (
            "{:process 0, :type :invoke, :f :write, :value -3}\n"
            "{:process 0, :type :ok, :f :write, :value -3N}\n"
            "{:process 1, :type :invoke, :f :read, :value nil}\n"
            "{:process 1, :type :ok, :f :read, :value -3.0M}\n"
        ),
        "jepsen-edn",
        2,
        0,
        "register",
        "linearizable",
    ),
    "keys in front, cas as a triple": (
        (
            '[\n {:process 1 :type :invoke :f :read :value ["a" nil]}\n'
            ' {:process 0 :type :invoke :f :cas :value ["b" nil "v1"]}\n'
            ' {:process 1 :type :ok :f :read :value ["a" nil]}\n'
            ' {:process 0 :type :fail :f :cas :value ["b" nil "v1"]}\n'
            ' {:process 1 :type :invoke :f :write :value ["b" "v1"]}\n'
            ' {:process 1 :type :ok :f :write :value ["b" "v1"]}\n]\n'
        ),
        "jepsen-edn",
        3,
        0,
        "cas-register",
        "linearizable",
    ),
    "comments: written one by one, read all at once": (
        (
            "{:type :invoke, :f :write, :value 3, :process 0}\n{:type :ok, :f :write, :value 3, :process 0}\n"
            "{:type :invoke, :f :read, :value nil, :process 1}\n{:type :ok, :f :read, :value #{3}, :process 1}\n"
        ),
        "jepsen-edn",
        2,
        0,
        "set",
        "linearizable",
    ),
    "PolySI": (
        ("w(0,0,-1,-1)\nw(0,1,0,0)\nw(1,2,0,0)\nr(0,1,1,1)\nr(1,0,1,2)\n"),
        "awdit",
        3,
        0,
        "rw-register",
        "strong-session-serializable",
    ),
}


@pytest.mark.parametrize("name", WILD)
def test_what_is_met_in_the_wild_is_read(name: str) -> None:
    text, format, operations, faults, object, model = WILD[name]
    for data in (text, text.encode(), b"\xef\xbb\xbf" + text.encode(), gzip.compress(text.encode())):
        history = read_history(data, name)
        assert (history.format, len(history), len(history.faults)) == (format, operations, faults)
    found = guess(history)
    assert (found.object, found.model) == (object, model)
    assert found.because


@pytest.mark.parametrize("name", [name for name, row in WILD.items() if row[2]])
def test_what_is_torn_reads_or_is_refused(name: str) -> None:
    """A file that ends anywhere gives a history or a DecodeError with a line in it."""
    text = WILD[name][0]
    for end in range(len(text)):
        try:
            read_history(text[:end])
        except DecodeError as error:
            assert "line" in str(error)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (
            '[{"process": 0, "type": "invoke", "f": "read"},\n{"process": 0, "type": "oops", "f": "read"}]',
            "line 2",
        ),
        ('[\n{"process": 0, "type": "invoke", "f": "read"},\n{"process": 0, "type": "ok" "f": "read"}]', "line 3"),
        ("{:process 0, :type :invoke, :f :read}\n}}}garbage", "line 2, column 1"),
        ('{"process": 0, "type": "invoke", "f": "read"}\n{"process": 0, "ty\n', "line 2"),
        ("INFO  jepsen.util - 0\t:invoke\t:read\tnil\nINFO  jepsen.util - 0\t:o\n", "line 2"),
        ("INFO  jepsen.util - 0\t:invoke\t:read\tnil\nINFO  jepsen.util - 0\n", "line 2"),
        ("{:process nil, :type :invoke, :f :read}", "line 1"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(text: str, where: str) -> None:
    with pytest.raises(DecodeError, match=rf"file\.x: {where}"):
        read_history(text, "file.x")


def test_broken_gzip_is_refused() -> None:
    whole = gzip.compress(b"{:process 0, :type :invoke, :f :read}\n" * 50)
    assert len(read_history(gzip.compress(b"") + gzip.compress(b"[]"))) == 0
    for data in (whole[:-9], b"\x1f\x8bjunk"):
        with pytest.raises(DecodeError, match="expected"):
            read_history(data, "z")


def test_lines_that_were_passed_over_are_said() -> None:
    log = WILD["a log of newer Jepsen"][0]
    history = read_history(log)
    assert history.remarks == ("passed over, as not about operations: 3 lines, the first of which is line 4",)
    one = read_history("\n".join(log.split("\n")[:4]))
    assert one.remarks == ("passed over, as not about operations: 1 line, the first of which is line 4",)
    assert history.with_reading(history.reading).remarks == history.remarks


def test_keys_of_independent_histories_are_taken_out_of_the_values() -> None:
    history = read_history(WILD["independent"][0])
    assert [(op.key, op.argument, op.result, op.outcome.value) for op in history.operations] == [
        (1, None, 4, "ok"), (2, (1, 3), (1, 3), "fail"), (1, 3, None, "info"),
    ]  # fmt: skip
    # A cas register that is read without a key is not independent, whatever its pairs look like.
    plain = WILD["independent"][0].replace("[1 nil]", "nil")
    assert read_history(plain).operations[1].argument == (2, (1, 3))


@pytest.mark.parametrize(("x", "y", "initial"), [(0, 0, 0), (1, 2, Record({("x", 1), ("y", 2)}))])
def test_multi_registers_of_knossos_start_as_is_read_before_it_is_written(x: int, y: int, initial: Value) -> None:
    """Knossos is told what they start as; its files do not say."""
    steps = (
        (1, "invoke", "[[:read :x nil] [:read :y nil]]"),
        (2, "invoke", "[[:write :x 5]]"),
        (2, "ok", "[[:write :x 5]]"),
        (1, "ok", f"[[:read :x {x}] [:read :y {y}]]"),
        (2, "invoke", "[[:write :y 5] [:write :x 6]]"),
        (2, "ok", "[[:write :y 5] [:write :x 6]]"),
        (2, "invoke", "[[:write :y 5]]"),
        (2, "ok", "[[:write :y 5]]"),
    )
    text = "".join(f"{{:type :{kind}, :f :txn, :value {value}, :process {who}}}\n" for who, kind, value in steps)
    history = read_history(text)
    assert history.reading.initial == initial and "are taken to start as" in history.remarks[-1]
    found = guess(history)
    assert found.object == "multi-register"
    assert check(history, found.model, found.object)


def test_what_is_read_after_a_write_says_nothing_of_the_beginning() -> None:
    text = "".join(
        f"{{:type :{kind}, :f :txn, :value [[{micro}]], :process 1}}\n"
        for micro in (":write :x 5", ":read :x 0", ":write :x 5")
        for kind in ("invoke", "ok")
    )
    history = read_history(text)
    assert history.reading.initial is None and not history.remarks
    assert not check(history, object="multi-register")


def test_a_triple_of_a_cas_begins_with_its_key() -> None:
    history = read_history(WILD["keys in front, cas as a triple"][0])
    assert [(op.key, op.argument) for op in history.operations] == [("a", None), ("b", (None, "v1")), ("b", "v1")]


def test_comments_are_elements_of_a_set() -> None:
    text = WILD["comments: written one by one, read all at once"][0]
    assert check(read_history(text), object="set")
    missed = check(read_history(text.replace("#{3}", "#{}")), object="set")
    assert not missed and "taken for an addition to a set" in "".join(missed.history.remarks)
    # A register may hold collections.
    assert {op.f for op in read_history(text.replace("3", "[3]")).operations} == {"read", "write"}


def test_numbered_transactions_belong_to_sessions_and_keys_start_as_0() -> None:
    text = WILD["PolySI"][0]
    history = read_history(text)
    assert [(op.process, op.argument) for op in history.operations] == [
        (0, (("w", 0, 1), ("w", 1, 2))), (1, (("r", 0, 1),)), (1, (("r", 1, 0),)),
    ]  # fmt: skip
    # x was seen, and then y as it had been before the same transaction.
    assert not check_transactions(history, "rw-register", "strong-session-serializable")
    assert check_transactions(
        read_history(text.replace("r(1,0", "r(1,2")), "rw-register", "strong-session-serializable"
    )
    for line, why in (("w(0,9,4,0)", "in session 4, expected session 0"), ("w 1 2", "expected 'w(KEY")):
        with pytest.raises(DecodeError, match=re.escape(why)):
            read_history(text + line)


LOGS = {
    "keys in front": ("0 i write [1 3]|0 o write [1 3]|1 i write [2 5]|1 o write [2 5]|1 i read [1 nil]|1 o read [1 3]", True),
    "keys in front of a cas": ("0 i write [1 3]|0 o write [1 3]|0 i cas [1 [3 4]]|0 o cas [1 [3 4]]|1 i read [1 nil]|1 o read [1 4]", True),
    "keys in front, and the value of another": ("0 i write [1 3]|0 o write [1 3]|1 i write [2 5]|1 o write [2 5]|1 i read [1 nil]|1 o read [1 5]", False),
    "a set": ("0 i write 1|0 o write 1|1 i read nil|1 o read [1]", True),
    "a set that lost one": ("0 i write 1|0 o write 1|0 i write 2|0 o write 2|1 i read nil|1 o read [1]", False),
    "a drain": ("0 i enqueue 1|0 o enqueue 1|1 i drain nil|1 o drain [1]", True),
    "a drain that lost one": ("0 i enqueue 1|0 o enqueue 1|1 i drain nil|1 o drain []", False),
}  # fmt: skip
"""Jepsen's text logs, shortened, and whether they are legal."""


@pytest.mark.parametrize("name", LOGS)
def test_a_text_log_means_what_the_same_events_mean_as_edn(name: str) -> None:
    lines, legal = LOGS[name]
    events = [line.split(" ", 3) for line in lines.split("|")]
    kinds = {"i": "invoke", "o": "ok"}
    log = "".join(f"INFO  jepsen.util - {who}\t:{kinds[k]}\t:{f}\t{value}\n" for who, k, f, value in events)
    edn = "".join(f"{{:process {who} :type :{kinds[k]} :f :{f} :value {value}}}\n" for who, k, f, value in events)
    for text in (log, edn):
        history = read_history(text)
        found = guess(history)
        assert bool(check(history, found.model, found.object)) is legal


def test_remarks_about_lines_and_about_keys_are_both_made() -> None:
    log = "starting\nINFO jepsen.util - 0 :invoke :write [1 3]\nINFO jepsen.util - 1 :invoke :read [1 nil]\n"
    keys, passed = read_history(log).remarks
    assert "jepsen.independent" in keys and "passed over" in passed


@pytest.mark.parametrize(("error", "legal"), [("", False), ("\t:connection-refused", True), ("\t[:odd 1]", True)])
def test_a_cas_that_failed_with_an_error_was_not_refused_for_its_value(error: str, legal: bool) -> None:
    lines = [
        "0\t:invoke\t:write\t1", "0\t:ok\t:write\t1", "1\t:invoke\t:cas\t[1 2]", f"1\t:fail\t:cas\t[1 2]{error}",
        "2\t:invoke\t:read\tnil", "2\t:ok\t:read\t1",
    ]  # fmt: skip
    history = read_history("".join(f"INFO  jepsen.util - {line}\n" for line in lines))
    assert bool(check(history, object="cas-register")) is legal


def test_a_cas_alone_shows_that_its_value_holds_a_key() -> None:
    """Without a read, ``[key [from to]]`` is what tells a history of jepsen.independent."""
    text = "".join(
        f"{{:process 0, :type {kind}, :f {f}, :value {value}}}\n"
        for f, value in ((":write", "[7 1]"), (":cas", "[7 [1 2]]"), (":write", "[8 3]"))
        for kind in (":invoke", ":ok")
    )
    history = read_history(text)
    assert [(op.key, op.argument) for op in history.operations] == [(7, 1), (7, (1, 2)), (8, 3)]
    assert check(history, object="cas-register")


@pytest.mark.parametrize(
    ("begins", "torn"),
    [
        ('{"process": 0, "type": "invoke", "f": "read"}\n', '{"process": 0, "type": "ok", "f": "re'),
        ("{:process 0, :type :invoke, :f :read}\n", "{:process 0, :type :ok, :f :read, :va"),
        ("INFO jepsen.util - 0 :invoke :read nil\r\n", "INFO jepsen.util - 0 :ok :read"),
        ("w 1 2\n-----\n", "w 3"),
    ],
)
def test_a_last_line_that_was_never_finished_is_passed_over(begins: str, torn: str) -> None:
    """Whoever recorded was stopped: the operation stays open, and that is said. With a line end it is an error."""
    history = read_history(begins + torn)
    assert len(history) == 1
    assert "ends within it" in history.remarks[-1]
    with pytest.raises(DecodeError):
        read_history(begins + torn + "\n")


def test_a_drain_is_many_dequeues() -> None:
    rows = [(0, "enqueue", value, value) for value in (1, 2, 3)]
    text = "".join(
        f"{{:process {process}, :type :{kind}, :f :{f}, :value {argument if kind == 'invoke' else result}}}\n"
        for process, f, argument, result in (*rows, (1, "drain", "nil", "[1 2 3]"))
        for kind in ("invoke", "ok")
    )
    history = read_history(text)
    assert [op.f for op in history.operations] == ["enqueue"] * 3 + ["dequeue"] * 4
    assert check(history, object="queue")
    assert not check(read_history(text.replace("[1 2 3]", "[1 2 4]")), object="queue")


def _drained(enqueues: int, end: str, taken: str) -> str:
    rows = [(0, "enqueue", number) for number in range(1, enqueues + 1)]
    lines = [
        f"{{:process {p}, :type :{kind}, :f :{f}, :value {v}}}" for p, f, v in rows for kind in ("invoke", "ok")
    ]
    lines += ["{:process 1, :type :invoke, :f :drain}", f"{{:process 1, :type :{end}, :f :drain, :value {taken}}}"]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("end", "taken", "status"),
    [
        ("ok", "[1 2]", Status.OK),
        ("ok", "[2 1]", Status.OK),
        ("ok", "[1]", Status.ILLEGAL),  # 2 is lost
        ("ok", "[]", Status.ILLEGAL),
        ("ok", "[1 1]", Status.ILLEGAL),
        ("info", "[1]", Status.OK),
        ("info", "[3]", Status.ILLEGAL),
        ("info", "nil", Status.OK),
        ("ok", "nil", Status.OK),
        ("fail", "nil", Status.OK),
    ],
)
def test_a_drain_leaves_nothing_unless_it_was_cut_short(end: str, taken: str, status: Status) -> None:
    history = read_history(_drained(2, end, taken))
    assert check(history, object=guess(history).object).status is status


def test_what_a_drain_that_was_cut_short_took_unseen_is_gone_perhaps() -> None:
    for late, status in (("nil", Status.OK), ("1", Status.OK), ("3", Status.ILLEGAL)):
        more = (
            f"\n{{:process 2, :type :invoke, :f :dequeue}}\n{{:process 2, :type :ok, :f :dequeue, :value {late}}}"
        )
        assert check(read_history(_drained(2, "info", "nil") + more), object="unordered-queue").status is status


def test_a_queue_is_first_in_first_out_unless_told_otherwise() -> None:
    """A store whose queue lost its order must not be praised; one that never promised any is told how to say so."""
    rows = [("enqueue", 1), ("enqueue", 2), ("dequeue", 2)]
    history = read_history(
        "\n".join(
            f"{{:process 0, :type :{kind}, :f :{f}, :value {v}}}" for f, v in rows for kind in ("invoke", "ok")
        )
    )
    found = guess(history)
    assert (found.object, found.model) == ("queue", "linearizable") and "--object unordered-queue" in found.because
    assert not check(history, found.model, found.object)
    assert check(history, found.model, "unordered-queue")


@pytest.mark.parametrize("begin", ["{:process 1, :type :invoke, :f :read}\n", ""])
def test_a_client_that_says_info_had_something_open(begin: str) -> None:
    """A write whose outcome is unknown is no fault: it may have happened."""
    lost = "{:process 0, :type :info, :f :write, :value 3}\n"
    text = lost + begin + "{:process 1, :type :ok, :f :read, :value 3}"
    if begin:
        with pytest.raises(DecodeError, match="line 1: info write from process 0, which has nothing open"):
            read_history(text)
    else:
        assert check(read_history(text), object="register")
    for fault in (":nemesis", '"n1"', "-1"):
        assert len(read_history(text.replace("process 0", f"process {fault}")).faults) == 1


def test_registers_that_start_with_values_of_their_own_are_one_object() -> None:
    rows = [f"{{:process 0, :type :{kind}, :f :txn, :value [[:w x 2]]}}" for kind in ("invoke", "ok")]
    history = read_history("\n".join(rows))
    assert guess(history).object == "rw-register"
    told = history.with_reading(structs.replace(history.reading, initial=Record({("x", 1), ("y", 2)})))
    assert guess(told).object == "multi-register"


def read_at(level: str | None) -> str:
    """A put of 1, one of 2, and a read of 1 that asked for *level*."""
    asked = {} if level is None else {"level": level}
    rows = [
        {"process": 0, "type": kind, "f": "put", "key": "a", "value": value}
        for value in ("1", "2")
        for kind in ("invoke", "ok")
    ]
    rows += [{"process": 1, "type": "invoke", "f": "get", "key": "a", **asked}]
    rows += [{"process": 1, "type": "ok", "f": "get", "key": "a", "value": "1"}]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("level", "legal"),
    [(None, False), ("linearizable", False), ("INFO", False), ("eventual", True), ("bounded(seconds=2)", True)],
)
def test_a_read_that_asked_for_less_is_no_proof_against_linearizability(level: str | None, legal: bool) -> None:
    history = read_history(read_at(level))
    assert bool(check(history)) is legal
    assert history.operations[2].level == (level if legal else None)
    # It is left out of that model alone.
    assert check(history, "sequential")
    said = ("1 read asked for less than linearizable, a model that leaves such reads out",)
    assert history.remarks == (said if legal else ())


def test_transactions_without_processes_are_completed_in_turn() -> None:
    """An invocation that names no process belongs to the next completion that names none."""
    rows = [
        "{:index 0 :type :invoke :value [[:append 1 1]]}",
        "{:index 1 :type :ok :value [[:append 1 1]]}",
        "{:index 2 :type :invoke :value [[:r 1 nil]]}",
        "{:index 3 :type :ok :value [[:r 1 [1]]]}",
    ]
    history = read_history("\n".join(rows))
    assert [(op.invoked, op.completed) for op in history.operations] == [(0, 1), (2, 3)]
    assert len(read_history("\n".join(rows[1::2]))) == 2
    rows = [f"{{:type :{kind}, :f :{f}, :value 1}}" for kind, f in (("invoke", "read"), ("invoke", "write"))]
    rows += [f"{{:type :ok, :f :{f}, :value 1}}" for f in ("write", "read")]
    history = read_history("\n".join(rows))
    assert [(op.f, op.invoked, op.completed) for op in history.operations] == [("read", 0, 3), ("write", 1, 2)]


@pytest.mark.parametrize(
    ("value", "f", "object"),
    [
        ("[[:r 1 []]]", "txn", "list-append"),
        ("[[:r 1 nil]]", "txn", "rw-register"),
        ("{0 10, 1 10}", "read", "bank"),
        ("3", "read", "register"),
    ],
)
def test_reads_alone_show_what_was_read(value: str, f: str, object: str) -> None:
    """Nobody wrote; what was seen is all there is to go by."""
    asked = "nil" if f == "read" else "[[:r 1 nil]]"
    rows = (
        f"{{:process 0, :type :{kind}, :f :{f}, :value {what}}}"
        for kind, what in (("invoke", asked), ("ok", value))
    )
    assert guess(read_history("\n".join(rows))).object == object


def test_a_history_of_nothing_known_asks_for_its_object() -> None:
    text = "{:process 0, :type :invoke, :f :fly, :value nil}"
    with pytest.raises(UsageError, match=r"fly.*--object"):
        guess(read_history(text))


def test_locks_with_tokens_are_checked_for_safety() -> None:
    row = "{{:process 0, :type :{}, :f :acquire, :value {}}}\n"
    found = guess(read_history(row.format("invoke", "nil") + row.format("ok", "7")))
    assert (found.object, found.model) == ("lock", "lock-safety")
    assert guess(pair([])).object == "register"


def test_a_register_written_twice_with_one_value_is_a_multi_register() -> None:
    """Versions of it could not be told apart; as one object it can still be judged."""
    row = "{{:process {0}, :type :{1}, :f :txn, :value [[:w x 1]]}}\n"
    text = "".join(row.format(process, kind) for process in (0, 1) for kind in ("invoke", "ok"))
    assert guess(read_history(text)).object == "multi-register"


def test_what_a_client_of_a_store_records_is_judged_as_one_object() -> None:
    """Transactions over two keys beside puts, gets, deletes and cas: the order of all of them counts."""
    rows = [
        (0, "put", "x", "1", "1"), (0, "txn", None, None, [["r", "x", "1"], ["w", "y", "2"]]),
        (1, "cas", "y", ["2", "3"], ["2", "3"]), (1, "get", "y", None, "3"),
        (2, "delete", "x", None, None), (2, "get", "x", None, None),
    ]  # fmt: skip
    lines = [{"troth_history": 1}]
    for process, f, key, asked, told in rows:
        lines.append({"process": process, "type": "invoke", "f": f, "key": key, "value": asked})
        lines.append({"process": process, "type": "ok", "f": f, "key": key, "value": told})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    history = read_history(text)
    assert guess(history).object == "multi-register"
    assert check(history, object="multi-register")
    for right, wrong in (('["r", "x", "1"]', '["r", "x", "9"]'), ('"value": "3"', '"value": "2"')):
        assert right in text
        assert not check(read_history(text.replace(right, wrong)), object="multi-register")
    # A read of nil is an observation here, and none in Knossos's files.
    late = text.replace('"f": "delete"', '"f": "put"').replace(
        '"value": null}\n{"process": 2, "type": "ok", "f": "put", "key": "x", "value": null',
        '"value": "5"}\n{"process": 2, "type": "ok", "f": "put", "key": "x", "value": "5"',
    )
    assert not check(read_history(late), object="multi-register")
    assert read_history(WILD["Knossos multi-register"][0]).reading.nil_read == "unknown"


def test_a_crashed_cas_beside_transactions_may_have_happened() -> None:
    events = [
        ("invoke", 0, "put", "x", 1), ("ok", 0, "put", "x", 1),
        ("invoke", 1, "cas", "x", [1, 2]), ("info", 1, "cas", "x", None),
        ("invoke", 2, "txn", None, None), ("ok", 2, "txn", None, [["r", "x", 2]]),
    ]  # fmt: skip
    lines = [{"type": t, "process": p, "f": f, "key": k, "value": v} for t, p, f, k, v in events]
    assert check(read_history(json.dumps(lines)), object="multi-register")
    lines[1]["type"] = lines[0]["type"] = "info"
    never = [line for line in lines if line["f"] != "put"]
    assert not check(read_history(json.dumps(never)), object="multi-register")


def test_without_real_time_no_model_of_real_time_is_asked_for() -> None:
    """AWDIT's files, and completions without invocations."""
    awdit = read_history(WILD["AWDIT with spaces"][0])
    assert guess(awdit).model == "strong-session-serializable"
    repeated = read_history("w x 1\n---\nw x 1\n===\nr x 1\n")
    assert (guess(repeated).object, guess(repeated).model) == ("multi-register", "sequential")
    assert check(repeated, "sequential", "multi-register")
    with pytest.raises(UsageError, match="real time"):
        check(repeated, "linearizable", "multi-register")
    assert guess(read_history(WILD["Elle without processes"][0])).model == "strong-session-serializable"
