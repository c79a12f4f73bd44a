"""put, get, del, range and watch: what is asked of the client, what is printed where, and the exit codes."""

import asyncio
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result

import troth
from troth import errors
from troth.client.replies import DeleteReply, GetReply, PutReply, RangeReply
from troth.kv.requests import Event, EventType, KeyValue, SortOrder, SortTarget
from troth.models import LevelName, bounded
from troth.replica.protocol import WRITES_BYTES_MAX

Run = Callable[..., Result]
KV = KeyValue(b"greeting", 2, 41, 3, b"hello", 0)


def found(kv: KeyValue | None, *, level: LevelName = LevelName.LINEARIZABLE, staleness_ms: int = 0) -> GetReply:
    return GetReply(kv=kv, revision=41, server="n2", level=level, staleness_ms=staleness_ms)


@pytest.mark.parametrize("value", [b"", b"no line end", b"a line\n", b"\xff\0\r\n"])
def test_what_goes_to_a_file_is_the_value_byte_by_byte(run: Run, fake: Any, value: bytes) -> None:
    fake(get=found(KeyValue(b"k", 2, 41, 3, value, 0)))
    assert run("get", "k").stdout_bytes == value


def test_a_terminal_gets_a_line_end(run: Run, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troth.cli.output.sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True)))
    fake(get=found(KV))
    assert run("get", "greeting").stdout == "hello\n"


def test_get_prints_the_bare_value_and_says_who_answered_apart(run: Run, fake: Any) -> None:
    client = fake(get=found(KV, level=LevelName.SESSION, staleness_ms=3))
    result = run("get", "greeting", "--level", "session")
    assert result.exit_code == 0
    assert result.stdout == "hello"
    assert result.stderr.strip() == "level=session served-by=n2 revision=41 staleness<=3ms"
    assert client.closed


def test_get_asks_for_the_level_that_was_named(run: Run, fake: Any) -> None:
    client = fake(get=found(KV))
    run("get", "greeting", "--level", "bounded:2s", "--revision", "7")
    assert client.calls == [("get", ("greeting",), {"level": bounded(seconds=2), "revision": 7})]


def test_an_absent_key_is_exit_code_1_and_prints_no_value(run: Run, fake: Any) -> None:
    fake(get=found(None))
    result = run("get", "nothing")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "no such key: nothing" in result.stderr


def test_json_keeps_bytes_that_are_not_text(run: Run, fake: Any) -> None:
    fake(get=found(KeyValue(b"k", 1, 1, 1, b"\xff\x00")))
    answer = json.loads(run("get", "k", "-o", "json").stdout)
    assert answer["kv"]["key"] == "k"
    assert answer["kv"]["value_base64"] == "/wA="
    assert answer["served_by"] == "n2"
    assert answer["level"] == "linearizable"


def test_a_level_that_does_not_exist_is_wrong_usage(run: Run, fake: Any) -> None:
    client = fake(get=found(KV))
    result = run("get", "k", "--level", "strict")
    assert result.exit_code == 2
    assert "bounded:2s" in result.stderr
    assert client.calls == []


def test_put_sends_a_value_from_the_command_line(run: Run, fake: Any) -> None:
    client = fake(put=PutReply(revision=42, server="n1"))
    result = run("put", "greeting", "hello", "--lease", "7f")
    assert result.exit_code == 0
    ((name, args, kwargs),) = client.calls
    assert (name, args, kwargs["lease"]) == ("put", ("greeting", b"hello"), 0x7F)


def test_put_sends_a_file_as_it_is(run: Run, fake: Any, tmp_path: Path) -> None:
    client = fake(put=PutReply(revision=42, server="n1"))
    (tmp_path / "blob").write_bytes(b"\x00\xffx")
    run("put", "blob", "--file", str(tmp_path / "blob"))
    assert client.calls[0][1] == ("blob", b"\x00\xffx")


def test_put_reads_no_more_of_a_file_than_is_refused(run: Run, fake: Any) -> None:
    client = fake(put=errors.InvalidRequest("etcdserver: request is too large"))
    result = run("put", "k", "--file", "/dev/zero")
    assert result.exit_code == 1 and "1.5 MiB" in result.stderr
    assert len(client.calls[0][1][1]) == WRITES_BYTES_MAX + 1


@pytest.mark.parametrize("name", ["", "-"])
def test_a_snapshot_is_saved_under_a_name(run: Run, fake: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake()
    monkeypatch.setattr(troth.aio, "connect", None)  # not asked
    result = run("snapshot", "save", name)
    assert result.exit_code == 2 and "names no file" in result.stderr


def test_a_backup_is_not_replaced_unless_that_is_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def save(_cluster: object, file: Path, _server: object) -> None:
        await asyncio.to_thread(file.write_bytes, b"new")

    monkeypatch.setattr("troth.cli.snapshot._save", save)
    backup = tmp_path / "backup.troth"
    backup.write_bytes(b"old")
    result = run("snapshot", "save", str(backup))
    assert result.exit_code == 2 and "--force" in result.stderr and backup.read_bytes() == b"old"
    assert run("snapshot", "save", str(backup), "--force").exit_code == 0 and backup.read_bytes() == b"new"


def test_a_snapshot_that_cannot_be_saved_says_so_of_its_own_name(run: Run, fake: Any) -> None:
    class Client:
        async def __aenter__(self) -> "Client":
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def snapshot(self, path: Path, *, server: str | None) -> None:
            raise FileNotFoundError(2, "No such file or directory", str(path))

    async def connect(_cluster: object) -> Client:
        return Client()

    fake()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("troth.cli.cluster.Cluster.connect_aio", connect)
        result = run("snapshot", "save", "/nonexistent/state")
    assert result.exit_code == 2 and ".part" not in result.stderr
    assert "/nonexistent/state cannot be written: No such file or directory" in result.stderr


@pytest.mark.parametrize("words", [("put", "k"), ("put", "k", "v", "--ignore-value"), ("del",), ("range",)])
def test_half_a_request_is_refused_before_anything_is_sent(run: Run, fake: Any, words: tuple[str, ...]) -> None:
    client = fake()
    result = run(*words)
    assert result.exit_code == 2
    assert client.calls == []


@pytest.mark.parametrize(("key", "start"), [("c", "c"), ("", b"\0")])
def test_a_span_may_have_no_end(run: Run, fake: Any, key: str, start: object) -> None:
    """etcd's `range_end` for that is a byte which no argument of a command can hold."""
    reply = RangeReply([KV], 1, False, 41, "n1", LevelName.LINEARIZABLE, 0)
    client = fake(delete=DeleteReply(3, [], 41, "n1"), range=reply, watch=Watch([]))
    run("del", key, "--from-key")
    run("range", key, "--from-key")
    run("watch", key, "--from-key")
    assert [(name, args) for name, args, _ in client.calls] == [
        (name, (start, b"\0")) for name in ("delete", "range", "watch")
    ]


@pytest.mark.parametrize("words", [["--from-key"], ["a", "c", "--from-key"], ["--prefix", "a", "--from-key"]])
def test_a_span_is_named_in_one_way(run: Run, fake: Any, words: list[str]) -> None:
    client = fake(delete=DeleteReply(3, [], 41, "n1"))
    result = run("del", *words)
    assert result.exit_code == 2 and "--from-key" in result.stderr
    assert client.calls == []


def test_delete_of_a_prefix(run: Run, fake: Any) -> None:
    client = fake(delete=DeleteReply(deleted=3, prev_kvs=[], revision=43, server="n1"))
    result = run("del", "--prefix", "worker/")
    assert result.stdout == "deleted 3\n"
    assert client.calls == [("delete", ("", None), {"prefix": "worker/", "prev_kv": False})]


def test_range_prints_tab_separated_lines_into_a_pipe(run: Run, fake: Any) -> None:
    reply = RangeReply(
        kvs=[KV, KeyValue(b"n\n", 1, 5, 1, b"v", 0x7F)],
        count=5,
        more=True,
        revision=41,
        server="n3",
        level=LevelName.EVENTUAL,
        staleness_ms=-1,
    )
    client = fake(range=reply)
    result = run("range", "a", "z", "--limit", "2", "--order", "descend", "--by", "mod", "--level", "eventual")
    assert result.stdout.splitlines() == [
        "key\tvalue\tversion\tcreated\tmodified\tlease",
        "greeting\thello\t3\t2\t41\t",
        "n\\n\tv\t1\t1\t5\t7f",
    ]
    assert "2 of 5 keys" in result.stderr
    assert "staleness=unknown" in result.stderr
    kwargs = client.calls[0][2]
    assert (kwargs["limit"], kwargs["sort_order"], kwargs["sort_target"]) == (2, SortOrder.DESCEND, SortTarget.MOD)


class Watch:
    """What `client.watch` returns: batches of events, and a context manager."""

    def __init__(self, batches: list[list[Event]]) -> None:
        self.batches = batches

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def __iter__(self) -> Iterator[list[Event]]:
        return iter(self.batches)


def test_watch_prints_a_line_for_each_change_and_stops_at_the_count(run: Run, fake: Any) -> None:
    deleted = Event(EventType.DELETE, KeyValue(b"greeting", 0, 42, 0, b""), KV)
    batches = [[Event(EventType.PUT, KV)], [deleted, Event(EventType.PUT, KV)]]
    fake(watch=Watch(batches))
    result = run("watch", "--prefix", "", "--count", "2")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["41", "PUT", "greeting", "=", "hello"],
        ["42", "DELETE", "greeting", "(was", "hello)"],
    ]


@pytest.mark.parametrize(
    ("error", "exit_code", "certain", "advice"),
    [
        (errors.Unavailable("no server answers at 127.0.0.1:1"), 4, "nothing was changed", "troth status"),
        (errors.RequestTimeout("no answer within 5 s"), 3, "it may have happened", "troth get"),
        (errors.LeaseNotFound("requested lease not found"), 1, "nothing was changed", "troth lease list"),
        (errors.QuotaExceeded("database space exceeded"), 1, "nothing was changed", "troth del"),
        (errors.Overloaded("too many requests"), 4, "nothing was changed", "fewer requests"),
    ],
)
def test_an_error_says_its_cause_what_is_certain_and_what_to_try(
    run: Run, fake: Any, error: Exception, exit_code: int, certain: str, advice: str
) -> None:
    fake(put=error)
    result = run("put", "k", "v")
    assert result.exit_code == exit_code
    first, second = result.stderr.splitlines()
    assert first == f"Error: {error} ({certain})"
    assert second.startswith("Try:")
    assert advice in second


def test_without_a_cluster_the_message_names_the_ways_to_name_one(run: Run) -> None:
    result = run("get", "k")
    assert result.exit_code == 2
    assert "troth up" in result.stderr
    assert "--url" in result.stderr


def test_a_cluster_left_by_up_is_found(
    run: Run, fake: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import troth
    from troth.cli.cluster import forget_context, write_context

    client = fake(get=found(KV))
    monkeypatch.delenv("TROTH_URL")
    asked: list[str] = []
    monkeypatch.setattr(troth, "connect", lambda url, **options: asked.append(url) or client)
    write_context("troth://127.0.0.1:7001", tmp_path)
    assert run("get", "greeting").exit_code == 0
    assert asked == ["troth://127.0.0.1:7001"]
    forget_context("troth://127.0.0.1:9999")
    assert run("get", "greeting").exit_code == 0
    forget_context("troth://127.0.0.1:7001")
    assert run("get", "greeting").exit_code == 2


def test_when_the_last_up_ends_the_one_before_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from troth.cli.cluster import forget_context, read_context, write_context

    write_context("troth://a:1", tmp_path)
    with subprocess.Popen(["true"]) as ended:
        pass
    monkeypatch.setattr(os, "getpid", lambda: ended.pid)
    write_context("troth://killed:2", tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("TROTH_CONTEXT", str(tmp_path / "context.json"))
    assert read_context() == "troth://a:1"
    write_context("troth://b:3", tmp_path)
    assert read_context() == "troth://b:3"
    forget_context("troth://b:3")
    assert read_context() == "troth://a:1"
    forget_context("troth://a:1")
    assert read_context() is None and not (tmp_path / "context.json").exists()


def test_arguments_that_are_not_utf_8_are_written_as_they_are(run: Run, fake: Any) -> None:
    client = fake(put=PutReply(revision=2, server="n1"))
    assert run("put", "k", os.fsdecode(b"\xff\xfe")).exit_code == 0
    assert client.calls[0][1] == ("k", b"\xff\xfe")


def test_ctrl_c_is_not_called_a_refusal(run: Run, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_args: object, **_kwargs: object) -> object:
        raise KeyboardInterrupt

    fake()
    monkeypatch.setattr(troth, "connect", interrupted)
    result = run("put", "k", "v")
    assert result.exit_code == 130
    assert "may or may not have happened" in result.stderr


def test_a_key_that_is_not_text_is_told_as_such_by_the_ring(run: Run) -> None:
    result = run("ring", "--nodes", "a,b", "where", "k\udcff", "--json")
    assert result.exit_code == 0 and '"key_base64": "a/8="' in result.stdout
