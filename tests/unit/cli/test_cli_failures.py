"""What a failed command advises is a command, and one that tells about what failed."""

import pytest
from click.testing import CliRunner

from troth import errors
from troth.cli.failures import advice_for
from troth.cli.main import COMMANDS, cli


@pytest.mark.parametrize(
    "command, advice",
    [
        ("put", "troth get KEY"),
        ("transfer", "troth member list"),
        ("member", "troth member list"),
        ("lease", "troth lease list"),
    ],
)
def test_what_may_have_happened_is_looked_up_where_it_would_show(command: str, advice: str) -> None:
    assert advice in advice_for(errors.OutcomeUnknown("?"), command)[1]


def test_every_error_has_advice_that_can_be_given_for_every_command() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.TrothError)
    ]
    for command in [name for section in COMMANDS.values() for name in section]:
        for kind in kinds:
            _, advice = advice_for(kind.__new__(kind), command)
            assert advice and "{" not in advice and "COMMAND" not in advice


def test_wrong_usage_names_the_help_of_the_very_command() -> None:
    result = CliRunner().invoke(cli, ["put", "x"])
    assert result.exit_code == 2 and "Try:   troth put --help" in result.output


def test_what_to_try_is_about_the_cluster_that_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise errors.Unavailable("nobody answers")

    monkeypatch.setattr("troth.connect", refuse)
    result = CliRunner().invoke(cli, ["get", "k", "--url", "troth+tls://a:1?ca=b&key=c"])
    assert "Try:   troth status --url 'troth+tls://a:1?ca=b&key=c'   " in result.stderr
    in_environment = CliRunner().invoke(cli, ["get", "k"], env={"TROTH_URL": "troth://a:1"})
    assert "Try:   troth status   " in in_environment.stderr


def test_what_is_too_large_is_told_what_would_not_be() -> None:
    assert "1.5 MiB" in advice_for(errors.InvalidRequest("etcdserver: request is too large"), "put")[1]


@pytest.mark.parametrize(
    "words, hint",
    [
        (["put", "n", "-6"], "stands behind '--'"),
        (["--url", "troth://a:1", "get", "k"], "Give it behind the command"),
        (["-o", "json", "get", "k"], "Give it behind the command"),
    ],
)
def test_an_option_out_of_place_is_told_its_place(words: list[str], hint: str) -> None:
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2 and hint in result.stderr


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("get", "without --revision"),
        ("watch", "with that revision, or a newer one, as --start-revision"),
        ("compact", "nothing: that history is gone already"),
    ],
)
def test_what_to_do_about_compacted_history_is_what_the_command_can_do(command: str, advice: str) -> None:
    kind = errors.WatchCompacted if command == "watch" else errors.Compacted
    assert advice in advice_for(kind("compacted away", 5), command)[1]


def test_who_names_no_member_is_told_where_they_are_listed() -> None:
    assert (
        advice_for(errors.UsageError("no member is called 'x'; there are: n1"), "member")[1] == "troth member list"
    )


def test_registers_take_the_same_urls_as_keys() -> None:
    for words in (["get", "k"], ["paxos", "get", "k"]):
        result = CliRunner().invoke(cli, [*words, "--url", "127.0.0.1:1"])
        assert result.exit_code == 2 and "does not start with troth://" in result.stderr
