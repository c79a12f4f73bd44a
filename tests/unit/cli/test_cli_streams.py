"""The command line where standard streams are not what they usually are, and what it says when nothing moves."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from click.testing import Result
from fake_server import asynchronous, running, until
from unit_cli_fakes import FakeClient, server

from troth import aio
from troth.cli.main import cli, main
from troth.cli.outages import tell_of_outages
from troth.client.background import Background
from troth.client.replies import GetReply, LeaseGranted
from troth.kv.requests import KeyValue
from troth.models import LevelName
from troth.replica.protocol import LeaseTtls

FOUND = GetReply(KeyValue(b"k", 2, 3, 2, b"v", 0x7F3A), 7, "n1", LevelName.LINEARIZABLE, 0)


# ---- streams -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_gives_its_number_to_nothing_else(closed: str) -> None:
    """Else the first socket of the client would get its number, and what is printed went to a server."""
    look = (
        "import os, sys; from troth.cli.main import open_standard_streams; open_standard_streams();"
        "sys.stdin.isatty(); sys.stdout.isatty(); sys.stderr.isatty();"
        "opened = os.open('/', os.O_RDONLY); assert opened > 2, opened; sys.exit(7)"
    )
    ended = subprocess.run(["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, look], check=False)
    assert ended.returncode == 7


@pytest.mark.parametrize("words", ["certs --help >&-", "--help >/dev/full", "--version >/dev/full"])
def test_an_output_that_nobody_can_have_got_is_no_success(words: str) -> None:
    asked = "from troth.cli.main import main; main()"
    ended = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {words}', sys.executable, asked],
        check=False,
        stderr=subprocess.PIPE,
    )
    assert ended.returncode == 3 and b"output is not complete" in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    asked = "from troth.cli.main import main; main()"
    try:
        ended = subprocess.run(
            [sys.executable, "-c", asked, "--help"], check=False, stdout=writing, stderr=subprocess.PIPE
        )
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_a_full_disk_behind_the_output_is_told(fake: Any, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(get=FOUND)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("troth.cli.output.print_raw", full)
    result: Result = run("get", "k")
    assert result.exit_code == 3 and "No space left on device" in result.stderr and "may have" in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), ("SIGHUP", 129)])
def test_who_is_told_to_end_cleans_up(name: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout 60 troth torture` must leave no servers, directories and network namespaces behind."""
    number, cleaned = signal.Signals[name], []
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}

    def command(**_: object) -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(True)

    monkeypatch.setattr(cli, "main", command)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert ended.value.code == code and cleaned


@pytest.mark.parametrize("variable, value", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_who_wants_no_colours_gets_none(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr(cli, "main", lambda **options: given.update(options))
    monkeypatch.setattr("troth.cli.main.end_in_order", lambda: None)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    main()
    assert given["color"] is None
    monkeypatch.setenv(variable, value)
    main()
    assert given["color"] is False


# ---- arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [["get", "k", "--timeout", "nan"], ["member", "remove", "n1", "--within", "nan"]]
)
def test_a_time_that_is_no_number_is_wrong_usage(run: Any, words: list[str]) -> None:
    result: Result = run(*words)
    assert result.exit_code == 2 and "not a number of seconds" in result.stderr


@pytest.mark.parametrize("words", [["lease", "grant", "9" * 30], ["lease", "grant", "9", "--id", "f" * 20]])
def test_numbers_of_leases_that_cannot_be_are_wrong_usage(run: Any, words: list[str]) -> None:
    result: Result = run(*words)
    assert result.exit_code == 2 and "Writes(" not in result.stderr


# ---- leases ------------------------------------------------------------------------------------------------


class Aio:
    """The asyncio client inside a fake one: `write` and `call` answer what they were told."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    async def write(self, command: object) -> Any:
        return self._next()

    def call(self, *_: object, **__: object) -> Any:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        answer = self._next()
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
        return type("Call", (), {"future": future})

    def _next(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException) and not isinstance(answer, Exception):
            raise answer
        return answer


def _with_leases(fake: Any, *answers: Any) -> FakeClient:
    client: FakeClient = fake()
    client.aio, client.background = Aio(*answers), Background()
    return client


@pytest.mark.parametrize(
    ("id_", "ttl_s", "asked", "says", "hint"),
    [
        (0x7F3A, 30, 30, "granted for 30 s", "troth lease keep-alive 7f3a"),
        (0x7F3A, 2, 1, "granted for 2 s, the shortest there is", "troth lease keep-alive 7f3a"),
        (-5, 30, 30, "granted for 30 s", "troth lease keep-alive -- -5"),
    ],
)
def test_grant_says_what_was_granted_and_how_it_is_kept(
    run: Any, fake: Any, id_: int, ttl_s: int, asked: int, says: str, hint: str
) -> None:
    client = _with_leases(fake, LeaseGranted(id_, ttl_s, 1, "n1"))
    result: Result = run("lease", "grant", str(asked))
    client.background.stop()
    assert result.stdout == f"{id_:x}\n"
    assert says in result.stderr and hint in result.stderr


def test_a_lease_is_kept_over_an_outage_that_is_shorter_than_it(
    run: Any, fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from troth.errors import Unavailable

    slept: list[float] = []
    monkeypatch.setattr("troth.cli.lease.sleep", lambda seconds: _note(slept, seconds))
    client = _with_leases(
        fake, LeaseTtls(1, [60]), Unavailable("no leader"), LeaseTtls(1, [60]), LeaseTtls(1, [-1])
    )
    result: Result = run("lease", "keep-alive", "7f3a")
    client.background.stop()
    assert result.exit_code == 1 and "no lease 7f3a" in result.stderr
    assert result.stdout.count("renewed for 60 s") == 2
    assert "not renewed: no leader" in result.stderr and "60 s" in result.stderr


async def _note(slept: list[float], seconds: float) -> None:
    slept.append(seconds)


def test_keys_in_json_name_their_lease_as_the_lease_commands_do(run: Any, fake: Any) -> None:
    fake(get=FOUND)
    result: Result = run("get", "k", "-o", "json")
    assert '"lease": "7f3a"' in result.stdout


# ---- nothing moves -----------------------------------------------------------------------------------------


def test_members_without_a_leader_say_what_only_a_leader_knows(run: Any, fake: Any) -> None:
    fake(members=list(server(1).peers))
    result: Result = run("member", "list")
    assert "?" not in result.stdout and "unknown" in result.stdout
    assert "no leader" in result.stderr and "Try:   troth status" in result.stderr
    fake(members=list(server(1, role="leader").peers))
    assert "no leader" not in run("member", "list").stderr


def test_who_is_a_member_already_is_not_said_to_be_added(run: Any, fake: Any) -> None:
    voter = server(1).peers[0]
    learner = msgspec.structs.replace(voter, voter=False)
    kept = msgspec.structs.replace(learner, member=msgspec.structs.replace(voter.member, promote=False))
    for peer, said in (
        (voter, "n1 is a member already, a voter\n"),
        (learner, "n1 is a member already, a learner; it gets its vote when it has caught up\n"),
        (kept, "n1 is a member already, a learner; to give it a vote: troth member promote n1\n"),
    ):
        fake(members=[peer], add_member=peer.node_id)
        assert run("member", "add", "h:1").stdout == said
    assert json.loads(run("member", "add", "h:1", "-o", "json").stdout) == {"node_id": "1", "added": False}
    fake(members=[], add_member=voter.node_id)
    assert run("member", "add", "h:1").stdout.startswith("added 1; ")


@asynchronous
async def test_a_watch_says_when_nobody_leads_and_when_somebody_does_again() -> None:
    async with running(3) as cluster, await aio.connect(cluster.url) as client:
        said: list[str] = []
        telling = asyncio.ensure_future(tell_of_outages(client, said.append, patience_s=0.05))
        await asyncio.sleep(0.2)
        assert said == []
        cluster.elect(None)
        await until(lambda: len(said) == 1)
        assert "no leader" in said[0] and "goes on" in said[0] and "Try:   troth status" in said[0]
        cluster.elect(cluster.servers[1])
        await until(lambda: len(said) == 2)
        assert "n2 leads" in said[1]
        telling.cancel()


def test_a_transfer_to_nobody_in_particular_names_no_server_in_json(run: Any, fake: Any) -> None:
    fake(transfer=None, members=list(server(1, role="leader").peers))
    result: Result = run("transfer", "-o", "json")
    assert json.loads(result.stdout) == {"done": "transferred", "server": None}
    named: Result = run("transfer", "n2", "-o", "json")
    assert json.loads(named.stdout) == {"done": "transferred", "server": "n2"}
    assert "handed leadership to n2" in run("transfer", "n2").stdout


def test_a_transfer_to_an_empty_name_is_not_one_to_anybody(run: Any, fake: Any) -> None:
    client = fake(transfer=None, members=[])
    run("transfer", "")
    assert client.calls[-1] == ("transfer", ("",), {})


@pytest.mark.parametrize("name", ["n1", "127.0.0.1:7001", "1"])
def test_of_who_leads_already_nothing_else_is_said(run: Any, fake: Any, name: str) -> None:
    client = fake(transfer=None, members=[msgspec.structs.replace(server(1).peers[0], leader=True)])
    assert run("transfer", name).stdout == f"{name} leads already\n"
    assert client.calls[-1] == ("transfer", (name,), {}), "it may have lost the lead meanwhile"


def test_a_voter_that_is_to_be_promoted_is_called_what_its_user_calls_it(run: Any, fake: Any) -> None:
    client = fake(members=[server(1).peers[0]], promote_member=None)
    result: Result = run("member", "promote", "n1")
    assert result.exit_code == 1 and "n1 has its vote already" in result.stderr
    assert [name for name, _, _ in client.calls] == ["members"]
    assert run("member", "promote", "n4").stdout == "promoted n4\n"
