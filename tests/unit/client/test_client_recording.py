"""Histories that clients write, and what troth.verify makes of them."""

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from fake_server import asynchronous, running

import troth
from troth import aio
from troth.errors import OutcomeUnknown, UsageError
from troth.verify.check import check
from troth.verify.formats import read_history
from troth.verify.guess import guess


def events(path: Path) -> list[dict[str, Any]]:
    header, *lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert header["troth_history"] == 1
    times = [line.pop("time") for line in lines]
    assert times == sorted(times)
    return lines


def test_operations_are_written_as_they_begin_and_end(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"

    @asynchronous
    async def run() -> None:
        async with running() as cluster, await aio.connect(cluster.url) as client:
            await client.put("before", "not recorded")
            with troth.recording(path):
                await client.put("k", "1")
                await client.get("k")
                await client.get("nothing", level=troth.eventual)
                await client.txn([troth.value("k") == "1"], [troth.Put("k", "2")])
                await client.txn([troth.version("k") == 0], [troth.Put("k", "3")])
                await client.txn(
                    [troth.version("k") > 0], [troth.Get("k"), troth.Put("l", "4"), troth.Delete("m")]
                )
                await client.delete("k")
                with pytest.raises(troth.errors.LeaseNotFound):
                    await client.put("k", b"\xff", lease=9)
            await client.put("after", "not recorded")

    run()
    told = [(e["process"], e["type"], e["f"], e.get("key"), e.get("value")) for e in events(path)]
    assert told == [
        (0, "invoke", "put", "k", "1"),
        (0, "ok", "put", "k", "1"),
        (0, "invoke", "get", "k", None),
        (0, "ok", "get", "k", "1"),
        (0, "invoke", "get", "nothing", None),
        (0, "ok", "get", "nothing", None),
        (0, "invoke", "cas", "k", ["1", "2"]),
        (0, "ok", "cas", "k", ["1", "2"]),
        (0, "invoke", "cas", "k", [None, "3"]),
        (0, "ok", "cas", "k", False),
        (0, "invoke", "txn", None, [["w", "l", "4"], ["w", "m", None]]),
        (0, "ok", "txn", None, [["r", "k", "2"], ["w", "l", "4"], ["w", "m", None]]),
        (0, "invoke", "delete", "k", None),
        (0, "ok", "delete", "k", None),
        (0, "invoke", "put", "k", "base64:/w=="),
        (0, "fail", "put", "k", "base64:/w=="),
    ]
    lines = events(path)
    assert lines[4]["level"] == "eventual" and lines[-1]["error"].startswith("LeaseNotFound")


def test_spans_and_leases_are_told(tmp_path: Path) -> None:
    """A store that deletes a prefix, or a key whose lease ends, is not blamed for what is gone; a lost write is."""
    path = tmp_path / "run.jsonl"

    @asynchronous
    async def run() -> None:
        async with running() as cluster, await aio.connect(cluster.url) as client:
            with troth.recording(path):
                await client.put("a/1", "1")
                await client.put("a/2", "2")
                await client.range(prefix="a/")
                await client.range(prefix="a/", limit=1)
                await client.delete(prefix="a/")
                await client.range(prefix="a/")

    run()
    told = [(e["f"], e.get("value")) for e in events(path) if e["type"] == "ok"]
    assert told[2:] == [("range", [["a/1", "1"], ["a/2", "2"]]), ("delete-range", None), ("range", [])]
    history = read_history(path.read_bytes())
    assert guess(history).object == "kv" and check(history, object="kv")
    assert history.remarks[0].endswith("not all at one instant: 3 operations on spans")
    text = path.read_text()
    assert not check(read_history(text.replace('[["a/1","1"],["a/2","2"]]', '[["a/1","1"]]')), object="kv")
    leased = (
        '{"troth_history":1}\n{"process":0,"type":"invoke","f":"put","key":"k","value":"1","lease":7}\n'
        '{"process":0,"type":"ok","f":"put","key":"k","value":"1","lease":7}\n'
        '{"process":0,"type":"invoke","f":"get","key":"k"}\n{"process":0,"type":"ok","f":"get","key":"k","value":null}\n'
    )
    assert check(read_history(leased), object="kv")
    assert not check(read_history(leased.replace(',"lease":7', "")), object="kv")


def test_leases_and_deleted_spans_of_transactions_are_told(tmp_path: Path) -> None:
    """What a lease or a transaction has taken away is no lost write."""
    path = tmp_path / "run.jsonl"

    @asynchronous
    async def run() -> None:
        async with running() as cluster, await aio.connect(cluster.url) as client:
            lease = await client.lease(60, keep=False)
            with troth.recording(path):
                await client.txn([troth.version("lock") == 0], [troth.Put("lock", "1", lease=lease.id)])
                await client.put("a/1", "1")
                await client.put("b", "1")
                await client.txn([], [troth.Put("a/2", "2", lease=lease.id), troth.Get("b")])
                await lease.revoke()
                await client.get("lock")
                await client.get("a/2")
                await client.txn([], [troth.Delete(prefix="a/"), troth.Put("c", "3")])
                await client.range(prefix="a/")

    run()
    text = path.read_text()
    assert check(read_history(text), object="multi-register")
    for told in ('"leased":["lock"]', '"leased":["a/2"]', '["delete-range","a/","a0"],'):
        assert told in text
        without = text.replace(told, '"leased":[]' if "leased" in told else "")
        assert not check(read_history(without), object="multi-register"), told


def test_watches_are_told_with_the_revisions_that_updates_made(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"

    @asynchronous
    async def run() -> None:
        async with running() as cluster, await aio.connect(cluster.url) as client:
            with troth.recording(path):
                async with client.watch("k", "m") as watch, client.watch(prefix="", no_put=True) as filtered:
                    await client.put("k", "1")
                    await client.put("x", "not watched")
                    await client.txn([troth.value("k") == "1"], [troth.Put("k", "2")])
                    await client.txn([], [troth.Put("l", "3"), troth.Delete("k")])
                    await client.txn([], [troth.Put("x", ignore_value=True), troth.Get("x")])
                    await client.delete("k")
                    await client.delete("l")
                    shown = 0
                    while shown < 5:
                        shown += len(await watch.__anext__())
                    await filtered.__anext__()

    run()
    told = events(path)
    made = [(e["f"], e["revision"] - told[1]["revision"]) for e in told if "revision" in e]
    assert made == [("put", 0), ("put", 1), ("cas", 2), ("txn", 3), ("txn", 4), ("delete", 5)]
    begun = told[1]["revision"]
    watched = [e["value"] for e in told if e["f"] == "watch"]
    assert {e["process"] for e in told if e["f"] == "watch"} == {told[-1]["process"]}
    assert [event for value in watched for event in value[4]] == [
        [begun, "k", "1"],
        [begun + 2, "k", "2"],
        [begun + 3, "l", "3"],
        [begun + 3, "k", None],
        [begun + 5, "l", None],
    ]
    assert all(value[:2] == ["k", "m"] for value in watched)
    assert watched[0][2] == begun and watched[-1][3] == begun + 5
    history = read_history(path.read_bytes())
    assert check(history, "watch")
    # What a put leaves as it was is no write of nothing.
    assert check(history, "linearizable", "multi-register")


def test_what_overlaps_or_stays_unknown_gets_processes_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"

    @asynchronous
    async def run() -> None:
        async with running(2) as cluster, await aio.connect(cluster.url, session=False) as client:
            await client.put("k", "0")
            with troth.recording(path):
                await asyncio.gather(*(client.put("k", str(number)) for number in range(3)))
                cluster.servers[0].lose_replies = 1
                with pytest.raises(OutcomeUnknown):
                    await client.put("k", "lost")
                await client.get("k")
                with pytest.raises(UsageError, match="one at a time"), troth.recording(path):
                    pass
                cluster.servers[0].stop()
                unfinished = client.get("k")
            unfinished.cancel()

    run()
    told = [(e["process"], e["type"], e["f"]) for e in events(path)]
    assert told[:3] == [(0, "invoke", "put"), (1, "invoke", "put"), (2, "invoke", "put")]
    assert sorted(told[3:6]) == [(0, "ok", "put"), (1, "ok", "put"), (2, "ok", "put")]
    assert told[6:] == [
        (0, "invoke", "put"),
        (0, "info", "put"),
        (1, "invoke", "get"),
        (1, "ok", "get"),
        (1, "invoke", "get"),
    ]


def test_the_checker_reads_what_was_recorded(tmp_path: Path) -> None:
    from troth.verify.formats.read import read_history

    path = tmp_path / "run.jsonl"

    @asynchronous
    async def run() -> None:
        async with running() as cluster, await aio.connect(cluster.url) as client:
            with troth.recording(path):
                await asyncio.gather(*(client.put(f"k{n % 3}", str(n)) for n in range(30)))
                await asyncio.gather(*(client.get(f"k{n % 3}") for n in range(30)))

    run()
    history = read_history(path.read_bytes())
    assert len(history) == 60 and {op.key for op in history.operations} == {"k0", "k1", "k2"}


def test_transactions_beside_single_keys_are_judged_together(tmp_path: Path) -> None:
    """Also one whose answer was lost: what it may have written is in the file."""
    from troth.verify.check import check
    from troth.verify.formats.read import read_history
    from troth.verify.guess import guess

    path = tmp_path / "run.jsonl"

    @asynchronous
    async def run() -> None:
        async with running(2) as cluster, await aio.connect(cluster.url, session=False) as client:
            with troth.recording(path):
                await client.put("k", "1")
                await client.txn(
                    [troth.value("k") == "1"], [troth.Put("k", "2"), troth.Put("l", "2")], [troth.Get("k")]
                )
                await client.txn([troth.version("k") == 0], [troth.Put("k", "3")], [troth.Get("l")])
                cluster.servers[0].lose_replies = 1
                with pytest.raises(OutcomeUnknown):
                    await client.txn([], [troth.Put("k", "4"), troth.Delete("l")])
                await client.get("k")
                await client.get("l")

    run()
    text = path.read_text()
    lost = [line for line in events(path) if line["type"] == "invoke" and line["f"] == "txn"][-1]
    assert lost["value"] == [["w", "k", "4"], ["w", "l", None]]
    history = read_history(text)
    found = guess(history)
    assert found.object == "multi-register"
    assert check(history, found.model, found.object)
    *others, last = text.splitlines()
    wrong = json.loads(last) | {"value": "7"}
    assert not check(read_history("\n".join([*others, json.dumps(wrong)])), found.model, found.object)


def test_a_lost_answer_leaves_open_which_branch_ran(tmp_path: Path) -> None:
    """What either branch may write is in the file, whatever stands in them; nobody may have run either."""
    from troth.verify.check import check
    from troth.verify.formats.read import read_history
    from troth.verify.guess import guess

    path = tmp_path / "run.jsonl"

    @asynchronous
    async def run() -> None:
        async with running(2) as cluster, await aio.connect(cluster.url, session=False) as client:
            with troth.recording(path):
                await client.put("k", "1")
                cluster.servers[0].lose_replies = 1
                with pytest.raises(OutcomeUnknown):
                    await client.txn(
                        [troth.value("k") == "7"],
                        [troth.Put("k", "2"), troth.Get("k")],
                        [
                            troth.Put("k", ignore_value=True),
                            troth.Txn(
                                [troth.version("m") == 0], [troth.Put("m", "3")], [troth.Delete(prefix="k")]
                            ),
                            troth.Put("l", "3"),
                        ],
                    )
                for key in "klm":
                    await client.get(key)

    run()
    lost = next(line for line in events(path) if line["f"] == "txn")
    nested = ["either", [["w", "m", "3"]], [["delete-range", "k", "l"]]]
    assert lost["value"] == [["either", [["w", "k", "2"]], [nested, ["w", "l", "3"]]]]
    text = path.read_text()

    def seeing(*seen: str | None) -> str:
        """The file, had the last reads seen this."""
        instead = dict(zip("klm", seen, strict=True))
        rows = [json.loads(line) for line in text.splitlines()]
        for row in rows:
            if row.get("f") == "get" and row["type"] == "ok":
                row["value"] = instead[row["key"]]
        return "\n".join(json.dumps(row) for row in rows)

    def told(*seen: str | None) -> bool:
        history = read_history(seeing(*seen))
        found = guess(history)
        assert found.object == "multi-register"
        return bool(check(history, found.model, found.object))

    # It may also have run after k was read, or after l.
    legal = {
        ("2", None, None),
        (None, "3", None),
        *(("1", *rest) for rest in itertools.product(("3", None), repeat=2)),
    }
    assert {seen for seen in itertools.product(("1", "2", None), ("3", None), ("3", None)) if told(*seen)} == legal
    # As older files have it.
    history = read_history(seeing("2", "3", None).replace(json.dumps(lost["value"]), "null"))
    verdict = check(history, "linearizable", "multi-register")
    assert verdict.status.value == "unknown" and "is not known" in verdict.reason


def test_no_process_stands_for_two_clients(tmp_path: Path) -> None:
    """What one client is promised about its own operations could not be checked otherwise."""
    path = tmp_path / "run.jsonl"

    @asynchronous
    async def run() -> None:
        async with (
            running() as cluster,
            await aio.connect(cluster.url) as one,
            await aio.connect(cluster.url) as other,
        ):
            with troth.recording(path):
                for client, key in [(one, "a"), (other, "b"), (one, "c"), (other, "d")]:
                    await client.put(key, "1")
                await asyncio.gather(one.put("e", "1"), other.put("f", "1"), one.put("g", "1"))

    run()
    told = {e["key"]: e["process"] for e in events(path)}
    assert told["a"] == told["c"] != told["b"] == told["d"]
    assert {told["e"], told["g"]} == {0, 2} and told["f"] == 1
