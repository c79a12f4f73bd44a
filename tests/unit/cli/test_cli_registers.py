"""`troth paxos` on a client that answers what it is told: what of it is JSON."""

import json
from typing import Any

import pytest
from click.testing import Result

from troth.client.registers.request import RegisterReply


class Registers:
    """What the commands ask of a `PaxosClient`."""

    def __init__(self, *_: object, **__: object) -> None: ...
    def __enter__(self) -> "Registers":
        return self

    def __exit__(self, *_: object) -> None: ...
    def get(self, key: str) -> RegisterReply:
        held = {"text": b"one\ntwo", "bytes": b"\xff", "nothing": None}[key]
        return RegisterReply(value=held, version=2, changed=False, decided=False)

    def keys(self, prefix: str) -> list[bytes]:
        return [b"colour", b"\xff"]

    def collect(self) -> int:
        return 3


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
