"""What `help` and an editor say of the synchronous client: that its calls answer; nothing is to be awaited."""

import inspect
import pydoc

import pytest

import troth
from troth.client import sync

CALLS = [
    (kind, name)
    for kind in (sync.Client, sync.Session, sync.Lease, sync.Watch)
    for name, each in vars(kind).items()
    if inspect.isfunction(each) and not name.startswith("_")
]


@pytest.mark.parametrize("kind, name", CALLS, ids=lambda each: getattr(each, "__name__", each))
def test_help_describes_a_call_that_answers(kind: type, name: str) -> None:
    text = pydoc.plain(pydoc.render_doc(getattr(kind, name)))
    title, _, _, *described = text.splitlines()
    assert title.endswith("in module troth.client.sync")
    assert described and described[0].strip()
    for word in ("asyncio", "Future", "Awaitable", "await ", "coroutine"):
        assert word not in text, text


def test_help_names_what_a_put_answers() -> None:
    assert str(inspect.signature(troth.Client.put)).endswith("-> 'PutReply'")
    assert str(inspect.signature(troth.aio.AsyncClient.put)).endswith("-> 'asyncio.Future[PutReply]'")
