"""A troth cluster as a participant: what a vote demands, what it holds, and that each branch is finished once."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

import msgspec
from fake_server import Served

import troth
from troth.client.replies import TxnReply
from troth.client.sync import Client
from troth.core.twophase.gid import Epoch
from troth.core.twophase.table import Finding
from troth.errors import Aborted, InvalidRequest, RequestError, RequestTimeout, UsageError
from troth.kv.checks import payload_bytes
from troth.kv.requests import Txn
from troth.transactions.participants.base import Begun
from troth.transactions.participants.cluster import HOLD, INTENT, Cluster, ClusterBranch
from troth.transactions.waiting import InThreads

EPOCH = Epoch("loglogxx", "room", 1)


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    served = Served()
    yield served
    served.stop()


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with troth.connect(served.cluster.url) as client:
        client.delete(prefix="")
        yield client


@pytest.fixture
def kv(client: Client) -> Cluster:
    return Cluster("kv", client, InThreads())


def begin(kv: Cluster, sequence: int, number: int = 0) -> ClusterBranch:
    return kv.open(number, Begun(EPOCH.name(sequence), None))


def written(client: Client) -> dict[bytes, bytes]:
    """What others see, without what the protocol keeps."""
    return {
        found.key: found.value for found in client.range(prefix="").kvs if not found.key.startswith(b"troth.2pc/")
    }


def kept(client: Client) -> list[bytes]:
    return [found.key for found in client.range(prefix="troth.2pc/").kvs]


def test_what_is_voted_on_is_seen_by_nobody_before_the_commit_and_then_nothing_else_is_left(
    kv: Cluster, client: Client
) -> None:
    client.put("gone", "1")
    branch = begin(kv, 1)
    branch.handle.put("made", "2")
    branch.handle.delete("gone")
    branch.prepare()()
    assert written(client) == {b"gone": b"1"}
    assert [found.branch for found in kv.prepared()] == [branch.name]
    branch.commit_prepared()()
    assert written(client) == {b"made": b"2"}
    assert kept(client) == []


def test_what_was_voted_on_is_rolled_back_without_a_trace(kv: Cluster, client: Client) -> None:
    branch = begin(kv, 1)
    branch.handle.put("made", "2")
    branch.prepare()()
    branch.roll_back()()
    assert written(client) == {}
    assert kept(client) == []


VOTES: list[Callable[[ClusterBranch], object]] = [ClusterBranch.prepare, ClusterBranch.commit_alone]


@pytest.mark.parametrize("vote", VOTES, ids=["prepare", "commit alone"])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_change_of_what_was_read_refuses_the_vote(
    vote: Callable[[ClusterBranch], Any], is_there: bool, kv: Cluster, client: Client
) -> None:
    if is_there:
        client.put("read", "1")
    branch = begin(kv, 1)
    assert branch.handle.get("read") == (b"1" if is_there else None)
    branch.handle.put("made", "2")
    client.put("read", "changed")
    with pytest.raises(Aborted):
        vote(branch)()
    assert written(client) == {b"read": b"changed"}
    assert kept(client) == []


@pytest.mark.parametrize("vote", VOTES, ids=["prepare", "commit alone"])
@pytest.mark.parametrize("verb", ["get", "put"])
def test_a_key_of_a_prepared_branch_that_it_read_or_wrote_is_nobody_elses(
    verb: str, vote: Callable[[ClusterBranch], Any], kv: Cluster, client: Client
) -> None:
    client.put("key", "1")
    holder, other = begin(kv, 1), begin(kv, 2)
    getattr(holder.handle, verb)(*("key", "2")[: 1 if verb == "get" else 2])
    holder.handle.put("else", "2")
    holder.prepare()()
    other.handle.put("key", "3")
    with pytest.raises(Aborted):
        vote(other)()
    holder.roll_back()()
    vote(other)()


@pytest.mark.parametrize("vote", VOTES, ids=["prepare", "commit alone"])
def test_what_a_prepared_branch_writes_nobody_may_have_read(
    vote: Callable[[ClusterBranch], Any], kv: Cluster, client: Client
) -> None:
    """It may be committed before the reader is, or after."""
    client.put("key", "1")
    holder, reader = begin(kv, 1), begin(kv, 2)
    holder.handle.put("key", "2")
    holder.prepare()()
    assert reader.handle.get("key") == b"1"
    reader.handle.put("else", "3")
    with pytest.raises(Aborted):
        vote(reader)()
    holder.roll_back()()
    vote(reader)()


def test_what_was_only_read_is_held_by_as_many_as_like_and_then_by_nobody(kv: Cluster, client: Client) -> None:
    """Or no two transactions that look at one setting could commit at the same time."""
    client.put("key", "1")
    readers, writer = [begin(kv, sequence) for sequence in (1, 2)], begin(kv, 3)
    for reader in readers:
        assert reader.handle.get("key") == b"1"
        reader.others_wrote()
        assert reader.wrote is True
        reader.prepare()()
    readers[0].commit_prepared()()
    writer.handle.put("key", "2")
    with pytest.raises(Aborted):
        writer.prepare()()
    readers[1].roll_back()()
    assert kept(client) == []
    begin(kv, 4).handle.get("key")
    untouched = begin(kv, 5)
    untouched.others_wrote()
    assert untouched.wrote is None, "it has nothing to hold"


def test_who_has_only_read_is_not_asked_at_the_end(
    kv: Cluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch = begin(kv, 1)
    branch.handle.get("key")
    client.put("key", "changed")
    monkeypatch.setattr(kv, "txn", None)
    branch.commit_alone()()


def test_a_key_that_nothing_else_touched_is_there_for_who_only_reads_it(kv: Cluster, client: Client) -> None:
    client.put("key", "1")
    branch = begin(kv, 1)
    branch.handle.get("key")
    branch.ask()()
    assert branch.wrote is False
    branch.handle.put("key", "2")
    branch.ask()()
    assert branch.wrote is True


def test_one_branch_votes_once(kv: Cluster, client: Client) -> None:
    first, again = begin(kv, 1), begin(kv, 1)
    first.handle.put("a", "1")
    first.prepare()()
    again.handle.put("b", "2")
    with pytest.raises(Aborted):
        again.prepare()()


def test_a_branch_is_finished_once_and_then_it_is_absent(kv: Cluster, client: Client) -> None:
    branch = begin(kv, 1)
    branch.handle.put("a", "1")
    branch.prepare()()
    assert kv.finish(branch.name, commit=True) is Finding.FINISHED
    client.put("a", "later")
    assert kv.finish(branch.name, commit=True) is Finding.ABSENT
    assert kv.finish(branch.name, commit=False) is Finding.ABSENT
    assert written(client) == {b"a": b"later"}


def test_the_slower_of_two_recoverers_writes_nothing(
    kv: Cluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have read the intent; one commits, and somebody else writes the key, before the other one goes on."""
    branch = begin(kv, 1)
    branch.handle.put("a", "1")
    branch.prepare()()
    slower, real = Cluster("kv", client, InThreads()), client.txn

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(client, "txn", real)
        assert kv.finish(branch.name, commit=True) is Finding.FINISHED
        client.put("a", "later")
        return real(*arguments)

    monkeypatch.setattr(client, "txn", overtaken)
    assert slower.finish(branch.name, commit=True) is Finding.ABSENT
    assert written(client) == {b"a": b"later"}


def silent(*arguments: Any, **named: Any) -> Any:
    raise RequestTimeout("no answer")


@pytest.mark.parametrize("verb", ["commit_prepared", "roll_back"])
def test_who_was_not_reached_was_not_told(
    verb: str, kv: Cluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch = begin(kv, 1)
    branch.handle.put("a", "1")
    branch.prepare()()
    with monkeypatch.context() as patch:
        patch.setattr(client, "get", silent)
        assert kv.finish(branch.name, commit=True) is Finding.UNREACHED
        with pytest.raises(RequestError):
            getattr(branch, verb)()()
    assert [found.branch for found in kv.prepared()] == [branch.name]


def test_a_vote_whose_answer_was_lost_is_rolled_back(
    kv: Cluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    branch, real = begin(kv, 1), client.txn
    branch.handle.put("a", "1")

    def lost(*arguments: Any) -> Any:
        real(*arguments)
        return silent()

    with monkeypatch.context() as patch:
        patch.setattr(client, "txn", lost)
        with pytest.raises(RequestTimeout):
            branch.prepare()
    assert [found.branch for found in kv.prepared()] == [branch.name]
    branch.roll_back()()
    assert kept(client) == []


def test_reads_see_what_the_transaction_has_written_and_what_they_saw_before(kv: Cluster, client: Client) -> None:
    client.put("a", "1")
    work = begin(kv, 1).handle
    work.put("b", "2")
    assert work.get("b") == b"2"
    work.delete("a")
    assert work.get("a") is None
    fresh = begin(kv, 2).handle
    assert fresh.get("a") == b"1"
    client.put("a", "changed")
    with pytest.raises(Aborted, match="between two reads"):
        fresh.get("a")
    with pytest.raises(Aborted, match="between two reads"):
        fresh.get("a")


def test_a_failed_savepoint_undoes_its_writes_and_no_others(kv: Cluster) -> None:
    branch = begin(kv, 1)
    branch.handle.put("a", "1")
    with pytest.raises(ZeroDivisionError), branch.savepoint():
        branch.handle.put("a", "2")
        branch.handle.put("b", str(1 / 0))
    with branch.savepoint():
        branch.handle.put("c", "3")
    assert branch.handle.writes == {b"a": b"1", b"c": b"3"}


def test_no_more_is_voted_for_than_can_be_committed(kv: Cluster, client: Client) -> None:
    branch = begin(kv, 1)
    for number in range(63):
        branch.handle.get(f"room/{number}")
        branch.handle.put(f"room/{number}", "there")
    with pytest.raises(UsageError, match="split"):
        branch.handle.put("room/more", "there")
    with pytest.raises(UsageError, match="split"):
        branch.handle.get("room/more")
    branch.handle.put("room/0", "again")
    branch.prepare()()
    branch.commit_prepared()()
    assert len(written(client)) == 63


@pytest.mark.parametrize(("key", "why"), [("", "not empty"), (b"troth.2pc/hold/a", "own"), (7, "str or bytes")])
def test_a_key_that_could_not_be_committed_is_refused_at_once(key: Any, why: str, kv: Cluster) -> None:
    work = begin(kv, 1).handle
    for verb in (work.get, work.delete, lambda key: work.put(key, "1")):
        with pytest.raises(UsageError, match=why):
            verb(key)
    with pytest.raises(UsageError, match="str or bytes"):
        work.put("a", 1)  # type: ignore[arg-type]
    assert not work.reads
    assert not work.writes


@pytest.mark.parametrize("key_bytes", [1, 2_000, 5_000])
def test_whatever_fits_into_a_vote_fits_into_its_commit(key_bytes: int, kv: Cluster) -> None:
    """The bound of a request is one on what it carries; keys travel in a vote more often than in a commit."""
    branch = begin(kv, 1)
    for number in range(20):
        branch.handle.put(f"{number:02}" + "k" * key_bytes, "v" * 700)
        branch.handle.get(f"read {number:02}")
    sizes: list[int] = []

    def measured(compares: Any, operations: Any) -> TxnReply:
        sizes.append(payload_bytes(Txn(tuple(compares), tuple(operations))))
        return Client.txn(kv.client, compares, operations)

    kv.txn = measured  # type: ignore[method-assign]
    branch.prepare()()
    branch.commit_prepared()()
    vote, commit = sizes
    assert commit <= vote


def test_what_the_cluster_will_never_do_is_told_from_what_it_was_not_asked(kv: Cluster, client: Client) -> None:
    """An intent that somebody else wrote: its commit is refused, and waiting would not change that."""
    name = f"{EPOCH.name(1)}.0"
    client.put(INTENT + name.encode(), msgspec.msgpack.encode([[[b"", b"x"]], []]))
    with pytest.raises(InvalidRequest):
        kv.finish(name, commit=True)
    assert kv.finish(name, commit=False) is Finding.FINISHED


@pytest.mark.parametrize("end", ["prepare", "commit_alone", "release"])
def test_what_would_be_lost_is_not_taken(end: str, kv: Cluster) -> None:
    branch = begin(kv, 1)
    branch.handle.put("a", "1")
    if end == "release":
        branch.release(broken=False)
    else:
        getattr(branch, end)()()
    for verb in (branch.handle.get, branch.handle.delete, lambda key: branch.handle.put(key, "2")):
        with pytest.raises(UsageError, match="is over"):
            verb("b")
    branch.roll_back()()


def test_only_intents_of_transactions_are_listed_and_each_under_its_name(kv: Cluster, client: Client) -> None:
    client.put(INTENT + b"of somebody else", "x")
    client.put(HOLD + b"a", EPOCH.name(1))
    branches = [begin(kv, 1, number) for number in (0, 1)]
    for branch in branches:
        branch.handle.put(f"key/{branch.number}", "1")
        branch.prepare()()
    assert [(str(found.gid), found.branch) for found in kv.prepared()] == [
        (EPOCH.name(1), f"{EPOCH.name(1)}.0"),
        (EPOCH.name(1), f"{EPOCH.name(1)}.1"),
    ]


def test_a_client_that_was_handed_in_is_its_owners_to_close(served: Served) -> None:
    with troth.connect(served.cluster.url) as client:
        Cluster("kv", client, InThreads()).close()
        client.put("still", "open")
    own = troth.connect(served.cluster.url)
    Cluster("kv", own, InThreads(), owns=True).close()
    with pytest.raises(UsageError):
        own.put("it", "is closed")
