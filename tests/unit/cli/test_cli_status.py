"""The verdict on a cluster, from every picture that its servers can give."""

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest
from click.testing import Result
from unit_cli_fakes import server

from troth.cli.output import print_table
from troth.cli.verdict import Health, judge
from troth.client.sync import Client
from troth.errors import Unavailable, WrongCluster
from troth.kv.requests import AlarmMember, AlarmType
from troth.transactions.log.standing import Standing, standing

Run = Callable[..., Result]


def test_all_servers_up_is_healthy() -> None:
    verdict = judge([server(1, role="leader"), server(2), server(3)])
    assert (verdict.health, verdict.sentence) == (Health.HEALTHY, "healthy: survives 1 more failure")


def test_one_of_three_down_is_degraded_and_survives_no_more() -> None:
    verdict = judge([server(1, role="leader", survives=0, silent=(3,)), server(2)])
    assert verdict.health is Health.DEGRADED
    assert verdict.sentence == "degraded: survives 0 more failures (n3 does not answer)"


def test_a_server_that_died_a_moment_ago_is_not_counted_on_though_the_leader_still_does() -> None:
    verdict = judge([server(1, role="leader", survives=1), server(2)])
    assert verdict.sentence == "degraded: survives 0 more failures (n3 does not answer)"


def test_with_too_few_that_answer_it_is_unavailable_though_the_leader_still_counts_on_them() -> None:
    verdict = judge([server(1, role="leader", survives=1)])
    assert (verdict.health, verdict.survives) == (Health.UNAVAILABLE, -1)
    assert verdict.sentence == "unavailable (n2 does not answer; n3 does not answer)"


def test_a_server_that_the_leader_does_not_hear_is_named() -> None:
    verdict = judge([server(1, role="leader", survives=0, silent=(3,)), server(2), server(3)])
    assert verdict.sentence == "degraded: survives 0 more failures (n3 is not heard by the leader)"


def test_without_a_leader_but_with_a_majority_an_election_is_expected() -> None:
    verdict = judge([server(2), server(3)])
    assert verdict.health is Health.UNAVAILABLE
    assert verdict.reasons == ("no leader; 2 of 3 voters answer", "an election should end this within seconds")


def test_a_server_that_waits_because_it_has_lost_data_is_named_with_what_to_do() -> None:
    verdict = judge([server(1, role="recovering", voters=1)])
    assert verdict.health is Health.UNAVAILABLE
    assert "n1 has lost a part of its log" in verdict.sentence and "troth range --prefix ''" in verdict.sentence
    assert "an election should end this" not in verdict.sentence
    verdict = judge([server(1, role="leader"), server(2), server(3, role="recovering")])
    assert verdict.health is Health.DEGRADED
    assert "n3 has lost a part of its log" in verdict.sentence and "restore" not in verdict.sentence


def test_a_minority_is_unavailable() -> None:
    verdict = judge([server(3)])
    assert verdict.health is Health.UNAVAILABLE
    assert verdict.reasons == ("no leader; 1 of 3 voters answer",)


def test_a_leader_without_a_quorum_is_unavailable() -> None:
    verdict = judge([server(1, role="leader", survives=-1, silent=(2, 3))])
    assert verdict.health is Health.UNAVAILABLE


def test_an_old_leader_does_not_outvote_the_new_one() -> None:
    old = server(1, role="leader", term=3, survives=-1, silent=(2, 3))
    new = server(2, role="leader", term=4, survives=0, silent=(1,))
    assert judge([old, new, server(3, term=4)]).health is Health.DEGRADED


def test_a_cluster_of_one_is_healthy_though_it_survives_nothing() -> None:
    verdict = judge([server(1, role="leader", survives=0, voters=1)])
    assert verdict.sentence == "healthy: survives 0 more failures"


def test_an_alarm_degrades() -> None:
    leader = server(1, role="leader")
    leader = type(leader)(
        **{name: getattr(leader, name) for name in leader.__struct_fields__ if name != "alarms"},
        alarms=[AlarmMember(1, AlarmType.NOSPACE)],
    )
    assert "reads only" in judge([leader, server(2), server(3)]).sentence


def test_the_command_prints_the_verdict_first_and_exits_with_it(run: Run, fake: Any) -> None:
    fake(status=[server(1, role="leader", survives=0, silent=(3,)), server(2)], range=Unavailable("not now"))
    result = run("status")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("degraded: survives 0 more failures")
    assert [line.split("\t")[:2] for line in lines[2:]] == [
        ["n1", "leader"],
        ["n2", "follower"],
        ["n3", "no answer"],
    ]


class Keys:
    """A client of a store that holds these keys."""

    def __init__(self, *keys: str) -> None:
        self.keys = sorted(keys)

    def range(self, first: str, end: str, *, limit: int, **options: Any) -> Any:
        found = [SimpleNamespace(key=key.encode()) for key in self.keys if first <= key < end]
        return SimpleNamespace(kvs=found[:limit], count=len(found))


def test_what_the_decision_logs_of_a_cluster_have_not_finished_is_counted_by_log() -> None:
    root = "troth.2pc/log/"
    keys = [f"{root}{name}/{rest}" for name in ("a", "a-1", "b") for rest in ("id", "cell/0/T1.x.0.1.1", "key/k")]
    keys += [f"{root}a/pending/T1.x.0.1.{n}" for n in (1, 2)] + [f"{root}b/heuristic/T1.x.0.1.1/bank"]
    found = standing(cast(Client, Keys("a", "troth.2pc/intent/x", *keys, "z")))
    assert found == {"a": Standing(2, 0), "a-1": Standing(0, 0), "b": Standing(0, 1)}
    assert standing(cast(Client, Keys())) == {}


def test_unfinished_decisions_are_told_after_the_servers(run: Run, fake: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("troth.transactions.log.standing.standing", lambda client: {"payments": Standing(2, 1)})
    fake(status=[server(1, role="leader"), server(2), server(3)])
    assert "decision log payments: 2 not noted as applied, 1 against" in run("status").stdout
    told = json.loads(run("status", "-o", "json").stdout)["decision_logs"]
    assert told == {"payments": {"unnoted": 2, "heuristics": 1}}


def test_nobody_answers_is_an_answer_too(run: Run, fake: Any) -> None:
    fake(status=Unavailable("no server answers"))
    result = run("status", "-o", "json")
    assert result.exit_code == 2
    assert json.loads(result.stdout)["verdict"] == "unavailable"


def test_a_cluster_that_cannot_be_asked_is_unavailable_not_degraded(run: Run, fake: Any) -> None:
    fake(status=WrongCluster("the server belongs to another cluster"))
    result = run("status")
    assert result.exit_code == 2
    assert result.stdout == "unavailable (the server belongs to another cluster)\n"
    assert "check --url" in result.stderr
    assert json.loads(run("status", "-o", "json").stdout)["reasons"] == ["the server belongs to another cluster"]


def test_a_table_too_wide_for_its_terminal_is_turned_and_keeps_its_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    columns = ("server", "role", "term", "revision", "sessions", "address")
    row = ("n1", "leader", 1, 41, 0, "127.0.0.1:20837")
    shown = {}
    for width in (80, 40, 20):
        monkeypatch.setenv("COLUMNS", str(width))
        print_table(columns, [row])
        shown[width] = [
            line.split() for line in click.unstyle(capsys.readouterr().out).splitlines() if line.split()
        ]
    assert shown[80][0] == list(columns) and shown[80][2] == [str(cell) for cell in row]
    assert shown[40][0] == ["server", "n1"] and shown[40][-1] == ["address", "127.0.0.1:20837"]
    monkeypatch.setenv("COLUMNS", "58")
    print_table(columns, [row], dispensable={"sessions", "term"})
    head, _, only = (line.split() for line in click.unstyle(capsys.readouterr().out).splitlines() if line.split())
    assert head == [column for column in columns if column != "sessions"] and only == [
        "n1",
        "leader",
        "1",
        "41",
        row[-1],
    ]
    assert shown[20] == shown[40][:1] + shown[40][-len(columns) + 1 :], (
        "a block for each, that no width is too small for"
    )
