"""What a session has seen rises with all that it does, and goes with it; and what a refusal's code says."""

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from troth.client.retry import _classes, class_of, is_definite
from troth.client.session import FIRST_REVISION, Data, Session
from troth.errors import (
    NotApplied,
    NotLeader,
    OutcomeUnknown,
    ProtocolError,
    RequestTimeout,
    TrothError,
    UsageError,
)
from troth.models import LevelName, ReadLevel

CLUSTER = 0xABC


class Client:
    """Answers everything at `revision`, and notes what it was asked."""

    cluster_id = CLUSTER

    def __init__(self) -> None:
        self.revision = FIRST_REVISION
        self.asked: list[dict[str, Any]] = []

    async def _answer(self, *arguments: object, **options: Any) -> SimpleNamespace:
        self.asked.append(options)
        return SimpleNamespace(revision=self.revision)

    put = get = range = delete = txn = _answer


def opened(token: str | None = None) -> tuple[Client, Session]:
    client = Client()
    return client, Session(cast(Data, client), token)


def do(session: Session, name: str) -> None:
    calls: dict[str, Coroutine[Any, Any, Any]] = {
        "put": session.put("a", "1"),
        "get": session.get("a"),
        "range": session.range("a", "b"),
        "delete": session.delete("a"),
        "txn": session.txn([], [], []),
    }
    for each, call in calls.items():
        if each == name:
            asyncio.run(call)
        else:
            call.close()


@pytest.mark.parametrize("name", ["put", "get", "range", "delete", "txn"])
def test_a_session_has_seen_all_that_it_did_and_never_less(name: str) -> None:
    client, session = opened()
    client.revision = 30
    do(session, name)
    assert session.seen_revision == 30
    client.revision = 20
    do(session, name)
    assert session.seen_revision == 30


@pytest.mark.parametrize("name", ["get", "range"])
def test_a_session_reads_nothing_older_than_it_has_seen(name: str) -> None:
    client, session = opened()
    client.revision = 30
    do(session, "put")
    do(session, name)
    assert client.asked[-1]["level"] == ReadLevel(LevelName.SESSION, 30)


def test_what_a_session_has_seen_is_made_a_level_once() -> None:
    """Each level that a client has not seen is looked at before it is sent."""
    client, session = opened()
    for name in ("get", "range", "get"):
        do(session, name)
    assert len({id(asked["level"]) for asked in client.asked}) == 1


def test_a_session_reads_the_past_when_it_is_asked_to() -> None:
    client, session = opened()
    asyncio.run(session.get("a", revision=12))
    assert client.asked[-1]["revision"] == 12


def test_a_token_takes_what_was_seen_along() -> None:
    client, session = opened()
    client.revision = 0x1F
    do(session, "put")
    assert session.token == "abc-1f"
    assert opened(session.token)[1].seen_revision == 0x1F
    assert opened(f"abc-{(1 << 63) - 1:x}")[1].seen_revision == (1 << 63) - 1
    for other in ("abd-1f", "abc1f", "abc-0", "abc-", "abc-x", "-1f", f"abc-{1 << 63:x}"):
        with pytest.raises(UsageError):
            opened(other)


# ---- codes ----


def test_a_code_names_the_class_that_gave_it_and_not_one_that_has_inherited_it() -> None:
    class Root:
        code = "root"

    class Private(Root): ...

    class Own(Private):
        code = "own"

    assert _classes(cast(type[TrothError], Root)) == {"root": Root, "own": Own}
    assert class_of(NotLeader.code) is NotLeader
    assert class_of("of a later version") is OutcomeUnknown


@pytest.mark.parametrize(
    ("kind", "definite"),
    [
        (NotApplied, True),
        (ProtocolError, True),
        (UsageError, True),
        (OutcomeUnknown, False),
        (RequestTimeout, False),
    ],
)
def test_whatever_is_not_in_doubt_is_definite(kind: type[TrothError], definite: bool) -> None:
    assert is_definite(kind) == definite
