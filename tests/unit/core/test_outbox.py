"""What an engine's rules want done is handed out whole, once, and whatever it is."""

from typing import Any

import pytest

from troth.core.interface import (
    ORIGIN,
    Effects,
    Entry,
    EntryKind,
    Membership,
    Persist,
    ReadState,
    Send,
    SnapshotMeta,
    Trace,
)
from troth.core.leading.outbox import NO_EFFECTS, Outbox
from troth.core.raft.messages import Heartbeat
from troth.ids import LogIndex, NodeId, Term

SEND = Send(NodeId(2), Heartbeat(Term(1), ORIGIN, 1))
MEMBERSHIP = Membership(voters=(NodeId(1),))
ENTRY = Entry(LogIndex(1), Term(1), EntryKind.NOOP, b"")
PARTS: dict[str, Any] = {
    "send": [SEND],
    "after_persist": [SEND],
    "reads": [ReadState(7, LogIndex(1))],
    "reads_refused": [7],
    "snapshots_wanted": [NodeId(2)],
    "trace": [Trace(name="told", facts={})],
    "membership": MEMBERSHIP,
}


def taken(outbox: Outbox, persist: Persist | None = None, committed: tuple[Entry, ...] = ()) -> Effects:
    return outbox.take(persist, committed, more_committed=False)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_alone_is_an_effect_and_is_handed_out_once(part: str) -> None:
    outbox = Outbox()
    setattr(outbox, part, list(PARTS[part]) if isinstance(PARTS[part], list) else PARTS[part])
    wanted = tuple(PARTS[part]) if isinstance(PARTS[part], list) else PARTS[part]
    effects = taken(outbox)
    assert getattr(effects, part) == wanted
    assert all(not getattr(effects, other) for other in PARTS if other != part)
    assert taken(outbox) is NO_EFFECTS


def test_what_is_to_be_installed_goes_with_what_is_told_of_it_and_once() -> None:
    outbox = Outbox()
    outbox.install = meta = SnapshotMeta(ORIGIN, MEMBERSHIP)
    outbox.membership = MEMBERSHIP
    assert taken(outbox).install == meta
    outbox.send.append(SEND)
    assert taken(outbox).install is None


def test_what_is_to_be_stored_or_applied_is_an_effect() -> None:
    assert taken(Outbox()) is NO_EFFECTS
    persist = Persist(entries=(ENTRY,))
    assert taken(Outbox(), persist).persist == persist
    assert taken(Outbox(), None, (ENTRY,)).committed == (ENTRY,)
