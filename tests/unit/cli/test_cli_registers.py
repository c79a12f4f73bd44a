"""`troth paxos` on a client that answers what it is told: what of it is JSON."""

import json
from typing import Any, ClassVar

import pytest
from click.testing import Result

from troth.cli.failures import CommandFailed
from troth.client.registers.replies import AcceptorView, RegisterReply
from troth.core.register.messages import Configuration, Seat, founding, group_of
from troth.errors import (
    ChangeFailed,
    DecodeError,
    QuotaExceeded,
    RequestTimeout,
    TrothError,
    Unavailable,
    UsageError,
    WrongCluster,
)
from troth.ids import NodeId


class Registers:
    """What the commands ask of a `PaxosClient`."""

    collected: ClassVar[list[str]] = []

    def __init__(self, *_: object, **__: object) -> None: ...
    def __enter__(self) -> "Registers":
        return self

    def __exit__(self, *_: object) -> None: ...
    def get(self, key: str) -> RegisterReply:
        held = {"text": b"one\ntwo", "bytes": b"\xff", "nothing": None}[key]
        return RegisterReply(value=held, version=2, changed=False, decided=False)

    def keys(self, prefix: str) -> list[bytes]:
        return [b"colour", b"\xff"]

    def collect(self, key: str | None = None, *, within_s: float = 60.0) -> int:
        if key is not None:
            self.collected.append(key)
            raise QuotaExceeded("no room for the tombstone")
        return 3

    @property
    def configuration(self) -> Configuration:
        return founding(group_of(tuple(Seat(NodeId(number), f"a{number}:1") for number in (1, 2, 3))))

    has_founded = False

    def acceptors(self) -> list[AcceptorView]:
        return []

    def delete(self, key: str) -> RegisterReply:
        return RegisterReply(value=None, version=3, changed=key != "nothing", decided=False)


@pytest.mark.parametrize(
    "words, answer",
    [
        (["get", "text"], {"value": "one\ntwo", "version": 2, "changed": False, "decided": False}),
        (["get", "bytes"], {"value_base64": "/w==", "version": 2, "changed": False, "decided": False}),
        (["get", "nothing"], {"value": None, "version": 2, "changed": False, "decided": False}),
        (["keys"], [{"key": "colour"}, {"key_base64": "/w=="}]),
        (["collect"], {"collected": 3}),
    ],
)
def test_what_programs_read_is_json_and_loses_nothing(
    run: Any, monkeypatch: pytest.MonkeyPatch, words: list[str], answer: object
) -> None:
    monkeypatch.setattr("troth.client.registers.sync.PaxosClient", Registers)
    result: Result = run("paxos", *words, "-o", "json", "--url", "troth://127.0.0.1:1")
    assert json.loads(result.stdout) == answer, result.output


def test_a_deletion_that_was_done_is_told_as_done_whatever_becomes_of_its_tombstone(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("troth.client.registers.sync.PaxosClient", Registers)
    monkeypatch.setattr(Registers, "collected", [])
    deleted: Result = run("paxos", "delete", "colour", "--url", "troth://127.0.0.1:1")
    assert deleted.exit_code == 0, deleted.output
    assert "deleted; its tombstone stays for now: no room" in deleted.stderr
    assert "changed=yes" in deleted.stderr
    assert Registers.collected == ["colour"], "it is not for this command to collect what others have deleted"
    assert run("paxos", "delete", "nothing", "--url", "troth://127.0.0.1:1").exit_code == 1
    assert Registers.collected == ["colour"]


def test_a_set_that_is_there_already_is_not_founded_and_that_is_said(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("troth.client.registers.sync.PaxosClient", Registers)
    command = ("paxos", "acceptors", "found", "--url", "troth://a1:1,a2:1,a3:1")
    refused: Result = run(*command)
    assert refused.exit_code == 2
    assert "a set already (epoch 1: a1:1, a2:1, a3:1" in refused.stderr
    monkeypatch.setattr(Registers, "has_founded", True)
    assert run(*command).exit_code == 0


@pytest.mark.parametrize(
    "error, advice",
    [
        (Unavailable("no acceptor answers"), "troth paxos acceptors list --url troth://a1:1"),
        (QuotaExceeded("full"), "troth paxos collect"),
        (RequestTimeout("no quorum"), "troth paxos get KEY"),
        (WrongCluster("of two sets"), "do not belong together"),
        (DecodeError("what is that"), "are those acceptors"),
        (UsageError("no key"), "troth paxos --help"),
    ],
)
def test_what_to_try_next_is_about_registers(error: TrothError, advice: str) -> None:
    """`troth status` refuses acceptors, and `troth del` frees nothing of theirs."""
    assert advice in CommandFailed(error, "paxos", "troth://a1:1").advice


def test_a_command_that_takes_longer_than_the_call_may_is_ended_and_named(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Changes(Registers):
        def change(self, key: str, function: Any) -> RegisterReply:
            try:
                return RegisterReply(value=function(None), version=1, changed=True)
            except RuntimeError as error:
                raise ChangeFailed(str(error)) from None

    monkeypatch.setattr("troth.client.registers.sync.PaxosClient", Changes)
    command = ("paxos", "change", "k", "--url", "troth://a1:1", "--exec")
    ended: Result = run(*command, "sleep 5", "--timeout", "0.01")
    assert ended.exit_code == 1
    assert "sleep 5 has not ended in time (--timeout)" in ended.stderr
    assert run(*command, "echo 7").stdout == "7"


@pytest.mark.parametrize("program", ["", "  ", 'tr "a'])
def test_a_command_that_is_none_is_refused_before_anything_is_asked(
    run: Any, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr("troth.client.registers.sync.PaxosClient", None)
    refused: Result = run("paxos", "change", "k", "--exec", program, "--url", "troth://a1:1")
    assert refused.exit_code == 2
    assert "--exec" in refused.stderr
