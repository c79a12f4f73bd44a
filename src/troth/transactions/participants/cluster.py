"""A troth cluster as a participant: ``tx["kv"].put(...)``.

The work is collected by the client and voted on by one transaction of the store: *if everything that was read is as it
was, and no other transaction holds a key of it, then write the intent, and take the keys.* ::

    troth.2pc/intent/<gid>.<branch>   what commit will write (msgpack)
    troth.2pc/hold/<key>              <gid>.<branch>: this key is written by a prepared transaction
    troth.2pc/hold/<key>\0<gid>.<branch>    this key was read by one: others may read it too, and nobody may write it

Commit writes the values and removes all of these, at one revision; rollback removes them. The intent is replicated, so
any process finishes it. Who writes the keys without TwoPhaseCommit does not look at the holds; keep such keys apart.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec

from troth.client.operations import Delete, Put, as_bytes, create_revision, mod_revision
from troth.client.replies import TxnReply
from troth.client.sync import Client
from troth.core.twophase.gid import parse_gid
from troth.core.twophase.table import Finding
from troth.errors import Aborted, InvalidRequest, RequestError, UsageError
from troth.kv.requests import Compare, CompareTarget, Operation
from troth.transactions.participants.base import Begun, Facts, Prepared, WithoutExtras, nothing_to_await
from troth.transactions.waiting import Waiting

RESERVED = b"troth.2pc/"
INTENT = RESERVED + b"intent/"
HOLD = RESERVED + b"hold/"
SHARED = b"\0"
"""Between a key that was read and the name of who holds it. Two keys of which one is the other with this byte and more
behind it may be taken for held when they are not: such work is refused, and may be tried again."""
OPERATIONS_MAX = 128
"""What a troth cluster (as etcd) takes in one transaction. Commit must fit in, or it could never be done."""

_encode = msgspec.msgpack.Encoder().encode


class _Intent(msgspec.Struct, frozen=True, array_like=True):
    writes: tuple[tuple[bytes, bytes | None], ...]
    held: tuple[bytes, ...]


_decode = msgspec.msgpack.Decoder(_Intent).decode


class ClusterWork:
    """What a transaction does in a cluster: reads see its own writes; nothing is visible to others before commit."""

    def __init__(self, client: Client, gid: str) -> None:
        self._client = client
        self._gid = gid
        self.reads: dict[bytes, int] = {}
        """Key -> revision of its last change when it was first read; 0: it was not there."""
        self.writes: dict[bytes, bytes | None] = {}
        """Key -> what it will hold; None: it will be deleted."""
        self.is_over = False
        """Whether it was voted on, committed or given up: what is written from then on would be lost."""

    def get(self, key: str | bytes) -> bytes | None:
        """The value of *key*, or None. If somebody changes it meanwhile, the commit of what was written (here or in
        another database) is refused; without a write there is nothing to refuse. Between vote and commit no other
        transaction of TwoPhaseCommit can change it."""
        name = self._name_of(key)
        if name in self.writes:
            return self.writes[name]
        kv = self._client.get(name).kv
        seen = kv.mod_revision if kv is not None else 0
        if name not in self.reads:
            self._check_room({*self.reads, name}, self.writes)
        if self.reads.setdefault(name, seen) != seen:
            raise Aborted(f"{name!r} was changed by somebody else between two reads of it", self._gid)
        return kv.value if kv is not None else None

    def put(self, key: str | bytes, value: str | bytes) -> None:
        """Write *key* when the transaction commits."""
        self._write(self._name_of(key), as_bytes(value))

    def delete(self, key: str | bytes) -> None:
        """Delete *key* when the transaction commits."""
        self._write(self._name_of(key), None)

    def _name_of(self, key: str | bytes) -> bytes:
        """*key* as it is stored. A vote takes any key, as a part of the intent and of a hold: what the cluster would
        refuse to commit has to be refused before.

        Raises:
            UsageError: no key of a cluster, or one that the protocol keeps for itself; or the transaction is over.
        """
        if self.is_over:
            raise UsageError("this transaction is over; begin another one")
        name = as_bytes(key)
        if not name:
            raise UsageError("a key of a cluster is not empty")
        if name.startswith(RESERVED):
            raise UsageError(f"{name!r:.60}: keys that begin with {RESERVED.decode()} are TwoPhaseCommit's own")
        return name

    def _write(self, key: bytes, value: bytes | None) -> None:
        if key not in self.writes:
            self._check_room(self.reads, {*self.writes, key})
        self.writes[key] = value

    def _check_room(self, reads: Collection[bytes], writes: Collection[bytes]) -> None:
        """Voting compares each key that was read, and each for its hold; commit writes, and lets go of each hold."""
        keys = len({*reads, *writes})
        if 1 + keys + max(len(reads), len(writes)) > OPERATIONS_MAX:
            raise UsageError(
                f"a transaction may write {(OPERATIONS_MAX - 1) // 2} keys of a cluster, and read as many (of which"
                " it may write some); split it"
            )


def _unheld(key: bytes, *, exclusively: bool) -> Compare:
    """That nobody writes *key*; *exclusively*: nor has read it."""
    return Compare(HOLD + key, CompareTarget.CREATE, range_end=HOLD + key + b"\1" if exclusively else b"")


def _operations(writes: Iterable[tuple[bytes, bytes | None]]) -> list[Operation]:
    return [Delete(key) if value is None else Put(key, value) for key, value in writes]


class ClusterBranch:
    """A branch in a troth cluster. See the module."""

    def __init__(self, participant: "Cluster", number: int, begun: Begun) -> None:
        self.participant = participant
        self.number = number
        self.proof = ""
        self._begun = begun
        self._voted = False
        self.handle = ClusterWork(participant.client, begun.gid)
        self.wrote: bool | None = None

    @property
    def name(self) -> str:
        return f"{self._begun.gid}.{self.number}"

    @property
    def _keys(self) -> list[bytes]:
        return sorted({*self.handle.reads, *self.handle.writes})

    def _unchanged(self) -> list[Compare]:
        return [
            *(mod_revision(key) == seen for key, seen in self.handle.reads.items()),
            *(_unheld(key, exclusively=key in self.handle.writes) for key in self._keys),
        ]

    def _refused(self) -> Aborted:
        return Aborted(
            f"{self.participant.name}: what was read has been changed, or another transaction holds a key of it",
            self._begun.gid,
            self.participant.name,
        )

    def answer_by(self, until: float) -> None:
        """The client has a bound of its own."""

    def ask(self) -> Callable[[], None]:
        self.wrote = bool(self.handle.writes)
        return nothing_to_await

    def others_wrote(self) -> None:
        if self.handle.reads or self.handle.writes:
            self.wrote = True

    def prepare(self) -> Callable[[], None]:
        """Vote. This is the larger request: what the cluster takes here, it takes from `Cluster.finish` too."""
        intent = INTENT + self.name.encode()
        writes = self.handle.writes
        held = [key if key in writes else key + SHARED + self.name.encode() for key in self._keys]
        holds: list[Operation] = [Put(HOLD + key, self.name) for key in held]
        content = _Intent(tuple(writes.items()), tuple(held))
        write: Operation = Put(intent, _encode(content))
        fresh = create_revision(intent) == 0
        self._voted = self.handle.is_over = True
        reply = self.participant.txn([fresh, *self._unchanged()], [write, *holds])
        if not reply.succeeded:
            raise self._refused()
        return nothing_to_await

    def commit_alone(self) -> Callable[[], None]:
        self.handle.is_over = True
        if not self.handle.writes:
            return nothing_to_await  # nor has anybody else written: what was read has nothing to agree with
        reply = self.participant.txn(self._unchanged(), _operations(self.handle.writes.items()))
        if not reply.succeeded:
            raise self._refused()
        return nothing_to_await

    def commit_prepared(self) -> Callable[[], None]:
        if self.participant.finish(self.name, commit=True) is Finding.UNREACHED:
            raise RequestError(f"{self.participant.name}: not reached")
        return nothing_to_await

    def roll_back(self) -> Callable[[], None]:
        if self._voted and self.participant.finish(self.name, commit=False) is Finding.UNREACHED:
            raise RequestError(f"{self.participant.name}: not reached")
        return nothing_to_await

    def release(self, *, broken: bool) -> None:
        """Nothing is held but the client, which is shared."""
        self.handle.is_over = True

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        before = dict(self.handle.writes)
        try:
            yield
        except BaseException:
            self.handle.writes = before
            raise

    def leave_to_parent(self) -> None:
        """Nothing is open; the client itself refuses the work of a child."""


class Cluster(WithoutExtras):
    """One troth cluster."""

    kind = "troth"
    can_prepare = True

    def __init__(self, name: str, client: Client, waiting: Waiting, *, owns: bool = False) -> None:
        """*owns*: close the client at the end."""
        self.name = name
        self.client = client
        self.waiting = waiting
        self._owns = owns

    @property
    def given(self) -> Client:
        return self.client

    def txn(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> TxnReply:
        return self.waiting.blocking(self.client.txn, compares, operations)

    def facts(self) -> Facts:
        return Facts(f"troth:{self.waiting.blocking(self.client.status)[0].cluster_id:x}", ())

    def open(self, number: int, begun: Begun) -> ClusterBranch:
        return ClusterBranch(self, number, begun)

    def prepared(self) -> list[Prepared]:
        found = []
        for kv in self.waiting.blocking(partial(self.client.range, prefix=INTENT, keys_only=True)).kvs:
            branch = kv.key[len(INTENT) :].decode("utf-8", "replace")
            gid = parse_gid(branch)
            if gid is not None:
                found.append(Prepared(gid[0], branch, 0.0))
        return found

    def finish(self, branch: str, *, commit: bool) -> Finding:
        """See `Participant.finish`. Raises InvalidRequest: the cluster was reached, and will never do it."""
        intent = INTENT + branch.encode()
        try:
            kv = self.waiting.blocking(self.client.get, intent).kv
            if kv is None:
                return Finding.ABSENT
            found = _decode(kv.value)
            gone: list[Operation] = [Delete(intent), *(Delete(HOLD + key) for key in found.held)]
            work = _operations(found.writes) if commit else []
            # Two recoverers, or the owner and one: only the first finds the intent as it was.
            reply = self.txn([mod_revision(intent) == kv.mod_revision], [*work, *gone])
            return Finding.FINISHED if reply.succeeded else Finding.ABSENT
        except InvalidRequest:
            raise
        except RequestError:
            return Finding.UNREACHED

    def close(self) -> None:
        if self._owns:
            self.client.close()
