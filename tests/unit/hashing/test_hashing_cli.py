"""``troth ring`` from the outside."""

import itertools
import json
import os
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from troth.cli.main import cli
from troth.cli.ring_movers import DirectoryMover
from troth.errors import UsageError
from troth.hashing import Anchor, HashRing, Move, Plan, RingSpec, build, describe


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["ring", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def test_show_prints_draws_and_saves(tmp_path: Path) -> None:
    ring, svg, page = tmp_path / "ring.json", tmp_path / "r.svg", tmp_path / "r.html"
    shown = run("--nodes", "a,b=2,c", "show", "--save", ring, "--svg", svg, "--html", page).output
    assert "peak/mean" in shown and "times the ideal" in shown and "b\t2" in shown
    assert svg.read_text().startswith("<svg") and "<table>" in page.read_text()
    assert build(RingSpec.from_json(ring.read_bytes())).digest == HashRing({"a": 1, "b": 2, "c": 1}).digest
    answer = json.loads(run("--ring", ring, "show", "--json").output)
    assert answer["digest"] == str(HashRing({"a": 1, "b": 2, "c": 1}).digest)
    assert run("--nodes", "a,b", "--vnodes", "7", "show").output != run("--nodes", "a,b", "show").output


def test_where_names_nodes_and_rules() -> None:
    answer = run("--nodes", "a@z1,b@z2,c@z2", "where", "k", "--replicas", "2")
    assert answer.stdout.splitlines()[0].split("\t")[0] == HashRing(["a", "b", "c"]).node("k")
    assert "zone: 2 distinct" in answer.stderr
    told = json.loads(run("--nodes", "a@z1,b@z2,c@z2", "where", "k", "--replicas", "3", "--json").stdout)
    assert told["rules"][0]["met"] is False and len(told["nodes"]) == 3


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (("foo", "--system", "redis"), "slot 12182"),
        (("foobar", "--system", "kafka", "--partitions", "50"), "partition 16"),
        (("123", "--system", "cassandra"), "token -7468325962851647638"),
        (("1", "--system", "vitess"), "keyspace_id 166b40b44aba4bd6"),
    ],
)
def test_where_in_other_systems(arguments: tuple[str, ...], printed: str) -> None:
    assert run("where", *arguments).output.strip() == printed
    assert str(json.loads(run("where", *arguments, "--json").output)[printed.split()[0]]) == printed.split()[1]


def test_diff_says_moved_and_ideal() -> None:
    assert "times the ideal; astray 0.000%" in run("--nodes", "a,b,c", "diff", "--add", "d").output
    told = json.loads(run("--nodes", "a,b,c", "diff", "--remove", "a", "--reweight", "b=3", "--json").output)
    assert told["astray"] == 0 and told["moved"] > 0.2


def test_plan_apply_pause_go_on_and_undo_over_directories(tmp_path: Path) -> None:
    ring, plan, after, root = (tmp_path / name for name in ("ring.json", "plan.json", "after.json", "shards"))
    run("--nodes", "a,b,c", "--vnodes", "12", "show", "--save", ring)
    located = HashRing(["a", "b", "c"], vnodes=12)
    for node in located.members:
        (root / node).mkdir(parents=True)
    keys = [f"k{index}" for index in range(300)]
    for key in keys:
        (root / located.node(key) / key).write_text(f"value of {key}")
    listed = tmp_path / "keys"
    listed.write_text("\n".join(keys))
    made = run("--ring", ring, "--keys", listed, "plan", "--add", "d", "-o", plan, "--save-after", after).output
    assert "of the keys given move" in made and "(an even share is 25.000%)" in made
    assert "paused after 5 of" in run("apply", plan, "--directory", root, "--stop-after", "5").output
    assert len(Plan.from_json(plan.read_bytes()).done) == 5
    assert "done:" in run("apply", plan, "--directory", root, "--bytes-per-second", "1000000").output
    grown = build(RingSpec.from_json(after.read_bytes()))
    assert all((root / grown.node(key) / key).read_text() == f"value of {key}" for key in keys)
    assert sum(1 for path in root.rglob("k*")) == 300
    assert "done:" in run("apply", plan, "--directory", root, "--undo").output
    assert all((root / located.node(key) / key).exists() for key in keys)
    assert not list((root / "d").iterdir())


def test_apply_runs_a_command_for_each_step(tmp_path: Path) -> None:
    plan, log = tmp_path / "plan.json", tmp_path / "log"
    run("--nodes", "a,b", "--vnodes", "3", "plan", "--add", "c", "-o", plan)
    command = f'echo "$TROTH_STEP $TROTH_SOURCE $TROTH_TARGET $TROTH_FIRST" >> {log}; echo 17'
    run("apply", plan, "--exec", command)
    made = Plan.from_json(plan.read_bytes())
    lines = [line.split() for line in log.read_text().splitlines()]
    assert made.finished and len(lines) == 3 * len(made.moves)
    assert {line[0] for line in lines} == {"copy", "switch", "drop"} and {line[2] for line in lines} == {"c"}
    run("--nodes", "a,b", "plan", "--add", "c", "-o", plan)
    assert "failed (3) at copy of move 0" in run("apply", plan, "--exec", "exit 3", code=2).output


def test_keys_are_judged(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("\n".join(f"user:{index}" for index in range(5000)))
    told = run("--nodes", "a,b,c,d", "--keys", keys).output
    assert "Take: " in told and "5,000 distinct" in told and "cannot let any node leave" in told
    answer = json.loads(
        run("--nodes", "a,b,c", "--keys", keys, "--append-only", "--shared-history", "--json").output
    )
    assert answer["recommended"] == "jump"
    assert "of your keys" in run("--nodes", "a,b", "--keys", keys, "show").output


def test_wrong_use_is_explained(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    (tmp_path / "empty").write_text("")
    (tmp_path / "bad").write_text("{}")
    for arguments, said in (
        (("show",), "which ring?"),
        (("--ring", missing, "show"), "cannot read"),
        (("--nodes", "a,a", "show"), "listed twice"),
        (("--nodes", "a=x", "show"), "no number"),
        (("--nodes", "a@z,b", "show"), "'b' has no zone"),
        (("--nodes", "a@1/2/3/4", "show"), "one to three levels"),
        (("--nodes", "a", "diff"), "what changes?"),
        (("--nodes", "a", "diff", "--add", "b", "--after", missing), "leave out"),
        (("--nodes", "a@z", "diff", "--add", "b"), "needs its zone"),
        (("--nodes", "a", "--keys", tmp_path / "empty", "show"), "no keys"),
        (("where", "k", "--system", "kafka"), "--partitions"),
        (("where", "k", "--system", "vitess"), "whole number"),
        (("--nodes", "a,b", "--algorithm", "jump", "where", "k", "--replicas", "2"), "cannot"),
    ):
        assert said in run(*arguments, code=2).output
    assert "not a ring" in run("--ring", tmp_path / "bad", "show", code=1).output
    assert "not a plan" in run("apply", tmp_path / "bad", "--directory", tmp_path, code=1).output
    plan = tmp_path / "plan.json"
    run("--nodes", "a,b", "plan", "--add", "c", "-o", plan)
    assert "who moves the data?" in run("apply", plan, code=2).output
    assert "is no directory" in run("apply", plan, "--directory", tmp_path, code=2).output
    assert "Usage" in run().output


def test_a_plan_from_zones_to_none_takes_copies_from_where_the_zones_put_them(tmp_path: Path) -> None:
    zoned, plain = tmp_path / "zoned.json", tmp_path / "plain.json"
    run("--nodes", "a@z1,b@z1,c@z2", "show", "--save", zoned)
    run("--nodes", "a,b,c", "show", "--save", plain)
    run("--ring", zoned, "plan", "--after", plain, "--replicas", "2", "-o", tmp_path / "p")
    # Keys of a and b have their second copy on c before, and some of them on each other afterwards.
    assert any(move.leaving == "c" for move in Plan.from_json((tmp_path / "p").read_bytes()).moves)


def test_the_same_undo_goes_on_however_often_it_is_said(tmp_path: Path) -> None:
    """A second --undo used to take the first back, also where the first had moved nothing yet."""
    run("--nodes", "a,b", "--vnodes", "3", "plan", "--add", "c", "-o", tmp_path / "p")
    log = tmp_path / "log"
    moves = "apply", tmp_path / "p", "--exec", f'echo "$TROTH_STEP $TROTH_TARGET" >> {log}'
    run(*moves)
    forward = len(log.read_text().splitlines())
    assert "failed (7) at copy" in run("apply", tmp_path / "p", "--exec", "exit 7", "--undo", code=2).output
    assert "the same command goes on" in run(*moves, "--undo", "--stop-after", "1").output
    for _ in range(2):
        assert "the ring is now 0:" in run(*moves, "--undo").output
    back = log.read_text().splitlines()[forward:]
    assert back.count("copy a") + back.count("copy b") == forward / 3 and "copy c" not in back


def test_a_plan_is_carried_out_by_one_process_at_a_time(tmp_path: Path) -> None:
    run("--nodes", "a,b", "--vnodes", "3", "plan", "--add", "c", "-o", tmp_path / "p")
    lock = tmp_path / "p.lock"
    with lock.open("wb") as held:
        flock(held, LOCK_EX)
        assert "another process is carrying" in run("apply", tmp_path / "p", "--exec", "true", code=2).output
    assert "done" in run("apply", tmp_path / "p", "--exec", "true").output and not lock.exists()
    assert "is not there" in run("apply", tmp_path / "nowhere" / "p", "--exec", "true", code=2).output


def test_a_plan_under_way_is_not_written_over(tmp_path: Path) -> None:
    make = "--nodes", "a,b", "--vnodes", "3", "plan", "--add", "c", "-o", tmp_path / "p"
    run(*make)
    run(*make)
    run("apply", tmp_path / "p", "--exec", "true", "--stop-after", "1")
    assert "under way" in run(*make, code=2).output
    run("apply", tmp_path / "p", "--exec", "true")
    run(*make)


@pytest.mark.parametrize(
    ("nodes", "arguments", "printed"),
    [
        ("a=1e99,b", ["where", "k"], "divide all weights"),
        ("a,b", ["diff", "--reweight", "a"], "--reweight a=WEIGHT"),
        ("a@z,b@z", ["diff", "--reweight", "a=2@y"], "--reweight a=WEIGHT"),
        ("a,b", ["diff", "--add", "c@z1"], "this ring has no zones"),
        ("a@z,b@", ["show"], "a zone has no name"),
    ],
)
def test_what_would_be_ignored_or_crash_is_refused(nodes: str, arguments: list[str], printed: str) -> None:
    result = CliRunner().invoke(cli, ["ring", "--nodes", nodes, *arguments])
    assert isinstance(result.exception, UsageError | SystemExit)
    assert printed in f"{result.output} {result.exception}"


def test_any_name_of_a_node_can_be_shown_and_judged(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("1\n2\n3\n")
    names = "a,(one more),one more"
    assert "one more" in run("--nodes", names, "show").output
    assert "Take:" in run("--nodes", names, "--keys", tmp_path / "k").output


@pytest.mark.parametrize("name", ["b/b", "../out", "/etc", "..", "."])
def test_a_node_is_a_directory_under_the_root_and_nowhere_else(tmp_path: Path, name: str) -> None:
    run("--nodes", "a", "--vnodes", "1", "plan", "--add", name, "--remove", "a", "-o", tmp_path / "p")
    (tmp_path / "root" / "a").mkdir(parents=True)
    refused = run("apply", tmp_path / "p", "--directory", tmp_path / "root", code=2).output
    assert "none can be named" in refused and not (tmp_path / "out").exists()


def test_a_file_whose_name_is_no_utf8_is_moved(tmp_path: Path) -> None:
    run("--nodes", "a", "--vnodes", "1", "plan", "--add", "b", "--remove", "a", "-o", tmp_path / "p")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / os.fsdecode(b"\xff")).write_bytes(b"x")
    run("apply", tmp_path / "p", "--directory", tmp_path)
    assert (tmp_path / "b" / os.fsdecode(b"\xff")).read_bytes() == b"x"


def test_a_full_anchor_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(describe(Anchor(["a", "b"], capacity=2)).to_json())
    assert "full" in run("--ring", tmp_path / "r", "show").output
    assert json.loads(run("--ring", tmp_path / "r", "show", "--json").output)["join_moved_to_ideal"] is None


def test_what_is_written_while_a_plan_is_paused_is_carried_over(tmp_path: Path) -> None:
    """All ranges are copied; then a file changes, another comes, and one is written at the target."""
    run("--nodes", "a", "--vnodes", "1", "plan", "--add", "b", "--remove", "a", "-o", tmp_path / "p")
    plan = Plan.from_json((tmp_path / "p").read_bytes())
    mover = DirectoryMover(tmp_path, plan)
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    for name in ("same", "changed", "ahead"):
        (a / name).write_text("old")
    for move in plan.moves:
        mover.copy(move)
    later = (a / "same").stat().st_mtime_ns + 10**9
    for path, text in ((a / "changed", "new"), (a / "come", "new"), (b / "ahead", "newer")):
        path.write_text(text)
        os.utime(path, ns=(later, later))
    for move in plan.moves:
        mover.switch(move)
    assert {path.name: path.read_text() for path in b.iterdir()} == {
        "same": "old",
        "changed": "new",
        "come": "new",
        "ahead": "newer",
    }
    (a / "last").write_text("written after the switch")
    for move in plan.moves:
        mover.drop(move)
    assert (b / "last").read_text() == "written after the switch" and not list(a.iterdir())


def test_what_is_written_at_the_last_moment_is_left_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--nodes", "a", "--vnodes", "1", "plan", "--add", "b", "--remove", "a", "-o", tmp_path / "p")
    a = tmp_path / "a"
    a.mkdir()
    (a / "k").write_text("old")
    carry, time = DirectoryMover._carry, itertools.count(2**33)

    def carry_and_write(mover: DirectoryMover, move: Move, paths: list[Path]) -> int:
        copied = carry(mover, move, paths)
        (a / "k").write_text("new")
        os.utime(a / "k", (2**33, next(time)))
        return copied

    monkeypatch.setattr(DirectoryMover, "_carry", carry_and_write)
    run("apply", tmp_path / "p", "--directory", tmp_path)
    assert (a / "k").read_text() == "new"


def test_an_undo_drops_a_copy_however_new_it_is(tmp_path: Path) -> None:
    run("--nodes", "a", "--vnodes", "1", "plan", "--add", "b", "--remove", "a", "-o", tmp_path / "p")
    plan = Plan.from_json((tmp_path / "p").read_bytes())
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "k").write_text("v")
    for move in plan.moves:
        DirectoryMover(tmp_path, plan).copy(move)
    plan.copied = [move.id for move in plan.moves]
    (tmp_path / "a" / "k").write_text("w")
    os.utime(tmp_path / "b" / "k", (2**33, 2**33))
    back = plan.undo()
    assert back.apply(DirectoryMover(tmp_path, back))
    assert (tmp_path / "a" / "k").read_text() == "w" and not list((tmp_path / "b").iterdir())


def test_a_name_as_long_as_a_file_may_have_is_moved(tmp_path: Path) -> None:
    run("--nodes", "a", "--vnodes", "1", "plan", "--add", "b", "--remove", "a", "-o", tmp_path / "p")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ("k" * 255)).write_text("v")
    run("apply", tmp_path / "p", "--directory", tmp_path)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["k" * 255]


@pytest.mark.parametrize("printed", [b"\xff\xfe 12", b"9" * 5000, "\u00b2".encode(), b""])
def test_whatever_a_command_prints_does_not_stop_the_plan(tmp_path: Path, printed: bytes) -> None:
    run("--nodes", "a", "--vnodes", "1", "plan", "--add", "b", "--remove", "a", "-o", tmp_path / "p")
    (tmp_path / "said").write_bytes(printed)
    assert "done" in run("apply", tmp_path / "p", "--exec", f"cat {tmp_path / 'said'}").output


def test_a_key_of_any_bytes_has_a_place(tmp_path: Path) -> None:
    key = os.fsdecode(b"\xff\xfe")
    assert run("--nodes", "a,b,c", "where", key).stdout.strip() == HashRing(["a", "b", "c"]).node(b"\xff\xfe")
    assert "slot" in run("where", key, "--system", "redis").output


@pytest.mark.parametrize(
    ("content", "keys"),
    [(b"a\r\nb\r\n", [b"a", b"b"]), (b"\xff\x00\n\n\xfe", [b"\xff\x00", b"\xfe"]), (b"a", [b"a"])],
)
def test_keys_are_lines_of_any_bytes(tmp_path: Path, content: bytes, keys: list[bytes]) -> None:
    (tmp_path / "k").write_bytes(content)
    told = json.loads(run("--nodes", "a,b", "--keys", tmp_path / "k", "--json").output)
    assert told == json.loads(run("--nodes", "a,b", "--keys", tmp_path / "k", "-o", "json").output)
    assert told["keys"] == len(keys)
    run("--nodes", "a", "--keys", tmp_path / "k", "--algorithm", "rendezvous", "plan", "--add", "b", "--remove", "a",
        "-o", tmp_path / "p")  # fmt: skip
    (move,) = Plan.from_json((tmp_path / "p").read_bytes()).moves
    assert list(move.key_bytes()) == keys


def test_more_replicas_than_nodes_are_not_judged(tmp_path: Path) -> None:
    (tmp_path / "k").write_text("a")
    assert "3 replicas" in run("--nodes", "a,b", "--keys", tmp_path / "k", "--replicas", "3", code=2).output


@pytest.mark.parametrize(
    ("algorithm", "settings", "said"),
    [
        ("ring", {"vnodes": 1.5}, "vnodes of ring: Expected `int`"),
        ("ring", {"nodes": "x"}, "ring has no setting 'nodes'"),
        ("multiprobe", {"probes": 2.5}, "probes of multiprobe: Expected `int`"),
        ("skeleton", {"clusters": [["a"]], "built_weights": ["x"]}, "built_weights of skeleton"),
        ("anchor", {"capacity": "x"}, "capacity of anchor"),
    ],
)
def test_a_ring_file_with_a_setting_of_the_wrong_type_is_refused(
    tmp_path: Path, algorithm: str, settings: dict[str, object], said: str
) -> None:
    (tmp_path / "r").write_text(json.dumps({"algorithm": algorithm, "nodes": [["a", 1]], "settings": settings}))
    assert said in run("--ring", tmp_path / "r", "show", code=2).output


def test_a_bad_file_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "r").write_text('{"algorithm": "ring", "nodes": [["a", 1]], "epoch": -1}')
    refused = run("--ring", tmp_path / "r", "show", code=1).output
    assert f"{tmp_path / 'r'}: not a ring" in refused and "--url" not in refused


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("--nodes", "a,b", "--json", "show"), "--json"),
        (("--nodes", "a,b", "-o", "json", "show"), "-o"),
        (("--nodes", "a,b", "--replicas", "2", "where", "k"), "--replicas"),
        (("--nodes", "a,b", "--cache", "show"), "--cache"),
        (("--ring", "RING", "--algorithm", "maglev", "show"), "--algorithm"),
        (("--ring", "RING", "--nodes", "a", "show"), "--nodes"),
        (("--ring", "RING", "--vnodes", "7", "where", "k"), "--vnodes"),
    ],
)
def test_an_option_that_would_be_passed_over_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], option: str
) -> None:
    run("--nodes", "a,b", "show", "--save", tmp_path / "r")
    given = [str(tmp_path / "r") if argument == "RING" else argument for argument in arguments]
    assert f"{option} has no effect here" in run(*given, code=2).output


def test_a_node_that_comes_is_on_disk_before_another_drops_what_it_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--nodes", "a", "--vnodes", "1", "plan", "--add", "b", "--remove", "a", "-o", tmp_path / "p")
    plan = Plan.from_json((tmp_path / "p").read_bytes())
    (tmp_path / "a").mkdir()
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    DirectoryMover(tmp_path, plan).copy(plan.moves[0])
    assert tmp_path.stat().st_ino in synced
