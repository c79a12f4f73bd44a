"""The replicated decision log: the same records as keys of a troth cluster, so that any surviving process finishes.

Everything is a compare-and-set transaction of the store; nothing here is more than one of them. Under
``troth.2pc/log/<name>/``::

    id                          the log's name, drawn once
    epoch/<coordinator>         [number, owned]: the coordinator's newest epoch; all smaller ones are closed
    alive/<coordinator>         there while the coordinator renews its lease: a hint for recovery, never a reason
    cell/<coordinator>/<gid>    Commit or Abort: created once (a delegated Commit may become Abort), never changed
    pending/<gid>               this Commit is not known to be applied
    key/<key>                   <gid>: who committed under the caller's key
    forgotten/<coordinator>     which applied cells were dropped, a bit for each
    member/<name>, heuristic/<gid>/<participant>

*Commit wins if the epoch's key still says our number, the cell does not exist and the caller's key is free*: one
transaction, so no clock and no lock. Whoever is not answered reads the cell by trying to win it for abort: whatever
stands there afterwards is the decision, and a Commit that is still under way can only lose.
"""

import asyncio
import contextlib
import secrets
import threading
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from troth.client.operations import Delete, Get, Put, create_revision, mod_revision, value
from troth.client.replies import RangeReply, TxnReply
from troth.client.sync import Client, Lease, connect
from troth.core.twophase.cells import APPLIED_KEPT, Verdict
from troth.core.twophase.forgotten import Forgotten, ForgottenState
from troth.core.twophase.gid import LOG_CHARS, Epoch, Gid, base36, is_name, parse_gid
from troth.core.twophase.records import Abort, Commit, Heuristic, Member
from troth.errors import NotApplied, OutcomeUnknown, RequestError, TrothError, UsageError
from troth.kv.requests import Compare, KeyValue, Operation, SortOrder, SortTarget
from troth.transactions.log.interface import Coordinator, Decided

ALIVE_TTL_S = 10
ASK_AGAIN_TIMES = 3
FLUSH_COUNT = 64
PRUNE_EVERY = 1000
PRUNE_MAX = 4 * PRUNE_EVERY
PLACES_MAX = 4096
FORGOTTEN_BYTES_MAX = 64 << 10
"""Read with every question about an absent cell: half a million transactions."""

_encode = msgspec.msgpack.Encoder().encode
_decode_cell = msgspec.msgpack.Decoder(Commit | Abort).decode
_decode_member = msgspec.msgpack.Decoder(Member).decode
_decode_heuristic = msgspec.msgpack.Decoder(Heuristic).decode


class _EpochCell(NamedTuple):
    number: int
    owned: bool


_decode_epoch = msgspec.msgpack.Decoder(_EpochCell).decode
_decode_forgotten = msgspec.msgpack.Decoder(ForgottenState).decode


class _Seen(NamedTuple):
    """What one transaction read about a gid."""

    cell: Commit | Abort | None
    epoch: _EpochCell | None
    forgotten: ForgottenState
    holder: str | None


class ReplicatedLog:
    """A `DecisionLog` in a troth cluster. See the module."""

    def __init__(
        self, client: Client, *, name: str = "troth", coordinator: str | None = None, owns_client: bool = False
    ) -> None:
        """Take a place (*coordinator*, or the first without a living holder) and open its next epoch.

        Raises:
            UsageError: a name that is not 1 to 16 small letters, digits, - or _.
            RequestError: the cluster cannot be used, or the place is held.
        """
        for each in (name, coordinator or "0"):
            if not is_name(each):
                raise UsageError(f"{each!r}: 1 to 16 small letters, digits, - or _")
        self._client = client
        self._owns_client = owns_client
        self._prefix = f"troth.2pc/log/{name}/"
        self._lock = threading.Lock()
        self._done: list[str] = []
        self._applied = 0
        self._log_id = self._drawn_id()
        self._wanted = coordinator
        self._name, self._lease = self._take_place()
        self._epoch = self._open_epoch()
        self._prune()

    @classmethod
    def connect(cls, url: str, *, name: str, coordinator: str | None) -> "ReplicatedLog":
        """A log over a client of its own. Raises as `troth.connect`."""
        client = connect(url)
        try:
            return cls(client, name=name, coordinator=coordinator, owns_client=True)
        except BaseException:
            client.close()
            raise

    # ---- places and epochs -----------------------------------------------------------------------------

    def _key(self, *parts: str) -> str:
        return self._prefix + "/".join(parts)

    def _drawn_id(self) -> str:
        drawn = "".join(base36(secrets.randbelow(36)) for _ in range(LOG_CHARS))
        key = self._key("id")
        self._client.txn([create_revision(key) == 0], [Put(key, drawn)])
        kv = self._client.get(key).kv
        if kv is None:
            raise RequestError(f"{key} was deleted; recovery needs it")
        return kv.value.decode()

    def _take_place(self, before: str = "") -> tuple[str, Lease]:
        """A place that nobody holds, and the lease by which we hold it; the one of *before* if it is free again."""
        wanted = self._wanted
        lease = self._client.lease(ALIVE_TTL_S)
        try:
            for name in [wanted] if wanted else [*filter(None, [before]), *map(base36, range(PLACES_MAX))]:
                alive = self._key("alive", name)
                if self._client.txn([create_revision(alive) == 0], [Put(alive, b"", lease=lease.id)]).succeeded:
                    return name, lease
        except BaseException:
            # Revoked, it is no longer renewed, and its place is free at the latest when it has run out.
            with contextlib.suppress(TrothError):
                lease.revoke()
            raise
        lease.revoke()
        raise NotApplied(
            f"the place {wanted or ''} of the decision log is held by a process that lives; wait {ALIVE_TTL_S} s if"
            " it has just died, or leave coordinator= out"
        )

    def _open_epoch(self) -> Epoch:
        key = self._key("epoch", self._name)
        while True:
            kv = self._client.get(key).kv
            number = 1 + (_decode_epoch(kv.value).number if kv is not None else 0)
            seen = mod_revision(key) == (kv.mod_revision if kv is not None else 0)
            if self._client.txn([seen], [Put(key, _encode(_EpochCell(number, True)))]).succeeded:
                return Epoch(self._log_id, self._name, number)

    def renew(self) -> Epoch:
        """Our epoch was closed by somebody: open another one. What was begun in the old one is aborted.

        If our lease has run out, our place may be another process's by now. Then we take another one: two in one place
        would close each other's epochs for ever.

        Raises:
            NotApplied: the place that we were told to take is held by another process.
        """
        kv = self._client.get(self._key("alive", self._name)).kv
        if kv is None or kv.lease != self._lease.id:
            self._name, self._lease = self._take_place(self._name)
        self._epoch = self._open_epoch()
        return self._epoch

    @property
    def log_id(self) -> str:
        return self._log_id

    @property
    def epoch(self) -> Epoch:
        return self._epoch

    # ---- cells -------------------------------------------------------------------------------------------

    def decide(self, commits: Sequence[Commit]) -> list[Decided | TrothError]:
        """See `DecisionLog.decide`: all of *commits* travel together, each as a transaction of its own."""
        with self._lock:
            done, self._done = self._done, []
        applied = self._applied_operations(done)

        async def all_at_once() -> list[TxnReply | BaseException]:
            waiting = [self._client.aio.txn(*self._attempt(commit)) for commit in commits]
            notes = [self._client.aio.txn((), operations) for operations in applied]
            answers = await asyncio.gather(*waiting, *notes, return_exceptions=True)
            return answers[: len(commits)]

        replies = self._client.background.run(all_at_once)
        answers: list[Decided | TrothError] = []
        is_silent = False
        for commit, reply in zip(commits, replies, strict=True):
            answers.append(self._read_answer(commit, reply, 0 if is_silent else ASK_AGAIN_TIMES))
            # Nobody waits for the silence of each of a batch: recovery asks for them when there is a log again.
            is_silent = is_silent or isinstance(answers[-1], TrothError)
        return answers

    def _attempt(self, commit: Commit) -> tuple[list[Compare], list[Operation], list[Operation]]:
        gid = _parsed(commit.gid)
        cell = self._key("cell", gid.coordinator, commit.gid)
        epoch = self._key("epoch", gid.coordinator)
        compare: list[Compare] = [
            value(epoch) == _encode(_EpochCell(gid.epoch, True)),
            create_revision(cell) == 0,
        ]
        put: list[Operation] = [Put(cell, _encode(commit)), Put(self._key("pending", commit.gid))]
        if commit.key:
            key = self._key("key", commit.key)
            compare.append(create_revision(key) == 0)
            put.append(Put(key, commit.gid))
        return compare, put, self._reads(gid, commit.key)

    def _reads(self, gid: Gid, key: str = "") -> list[Operation]:
        names = [
            self._key("cell", gid.coordinator, str(gid)),
            self._key("epoch", gid.coordinator),
            self._key("forgotten", gid.coordinator),
        ]
        return [Get(name) for name in (*names, *([self._key("key", key)] if key else []))]

    def _read_answer(self, commit: Commit, reply: TxnReply | BaseException, times: int) -> Decided | TrothError:
        if isinstance(reply, BaseException):
            if not isinstance(reply, RequestError):
                return OutcomeUnknown(f"{commit.gid}: {reply}")
            return self._ask_again(commit, reply, times)
        if reply.succeeded:
            return Decided(_verdict_of(commit), commit.gid)
        return self._judge(commit, _seen(reply))

    def _judge(self, commit: Commit, seen: _Seen) -> Decided:
        """Why *commit* did not win."""
        if seen.cell is not None:
            return Decided(_verdict_of(seen.cell), commit.gid)
        if seen.holder is not None:
            return Decided(Verdict.COMMIT, seen.holder)
        return Decided(Verdict.ABORT, commit.gid)

    def _ask_again(self, commit: Commit, error: RequestError, times: int) -> Decided | TrothError:
        """Not answered. Reading would not do, since the Commit may still arrive: try to win the cell for abort."""
        for _ in range(times):
            try:
                verdict = self.abort(Abort(commit.gid, "its owner, which was not answered"))
            except RequestError as again:
                error = again
            else:
                return Decided(verdict, commit.gid)
        return OutcomeUnknown(f"{commit.gid}: the decision log did not answer: {error}")

    def abort(self, record: Abort) -> Verdict:
        gid = _parsed(record.gid)
        if gid.log != self._log_id:
            return Verdict.FOREIGN
        cell = self._key("cell", gid.coordinator, record.gid)
        reply = self._client.txn([create_revision(cell) == 0], [Put(cell, _encode(record))], self._reads(gid))
        if reply.succeeded:
            return Verdict.ABORT
        return self._verdict_from(gid, _seen(reply))

    def verdict(self, gid: Gid) -> Verdict:
        if gid.log != self._log_id:
            return Verdict.FOREIGN
        return self._verdict_from(gid, _seen(self._client.txn((), self._reads(gid))))

    def _verdict_from(self, gid: Gid, seen: _Seen) -> Verdict:
        if seen.cell is not None:
            return _verdict_of(seen.cell)
        if seen.epoch is None or gid.epoch > seen.epoch.number:
            return Verdict.FOREIGN
        if Forgotten(seen.forgotten).may_hold(gid.epoch, gid.sequence):
            return Verdict.FORGOTTEN
        return Verdict.OPEN if seen.epoch == _EpochCell(gid.epoch, True) else Verdict.ABORT

    def commit_of(self, gid: Gid) -> Commit | None:
        kv = self._client.get(self._key("cell", gid.coordinator, str(gid))).kv
        found = _decode_cell(kv.value) if kv is not None else None
        return found if isinstance(found, Commit) else None

    def holder_of(self, key: str) -> str | None:
        kv = self._client.get(self._key("key", key)).kv
        return kv.value.decode() if kv is not None else None

    # ---- afterwards ----------------------------------------------------------------------------------------

    def note_applied(self, gids: Sequence[str]) -> None:
        """Travels with the next decisions; by itself when there are many, or when others' are noted."""
        with self._lock:
            self._done += gids
            self._applied += len(gids)
            is_time_to_prune = self._applied >= PRUNE_EVERY
            if is_time_to_prune:
                self._applied = 0
            others = any(_parsed(gid).coordinator != self._name for gid in gids)
            due = self._done if others or is_time_to_prune or len(self._done) >= FLUSH_COUNT else []
            if due:
                self._done = []
        for operations in self._applied_operations(due):
            self._client.txn((), operations)
        if is_time_to_prune:
            self._prune()

    def _applied_operations(self, gids: Sequence[str]) -> list[list[Operation]]:
        """In as many transactions as the store's bound on operations wants."""
        deletes: list[Operation] = [Delete(self._key("pending", gid)) for gid in gids]
        return [deletes[start : start + FLUSH_COUNT] for start in range(0, len(deletes), FLUSH_COUNT)]

    def _prune(self) -> None:
        """Drop the oldest of our cells that are applied, and say up to where."""
        cells = self._key("cell", self._name) + "/"
        count = self._client.range(prefix=cells, limit=1, keys_only=True).count
        if count <= APPLIED_KEPT:
            return
        pending = {kv.key.decode().rpartition("/")[2] for kv in self._range("pending/")}
        left, since = count - APPLIED_KEPT, 0
        while left > 0:
            # A page may hold nothing that can be dropped (a database is away for days): what is behind it can.
            page = self._client.range(
                prefix=cells,
                limit=min(left, PRUNE_MAX),
                sort_order=SortOrder.ASCEND,
                sort_target=SortTarget.CREATE,
                min_create_revision=since,
            ).kvs
            if not page or self._drop(cells, page, pending):
                return
            left, since = left - len(page), page[-1].create_revision + 1

    def _drop(self, cells: str, oldest: Sequence[KeyValue], pending: set[str]) -> bool:
        """Drop what can be dropped of *oldest*; False if that is nothing."""
        found_cells = {kv.key.decode().removeprefix(cells): _decode_cell(kv.value) for kv in oldest}
        # An abort keeps its cell while a Commit may still come for it, and then needs none: an empty one says the same.
        aborted = {name for name, cell in found_cells.items() if isinstance(cell, Abort)}
        drop = [
            name
            for name in found_cells
            if name not in pending and (name not in aborted or _parsed(name).epoch < self._epoch.number)
        ]
        for start in range(0, len(drop), FLUSH_COUNT):
            some = drop[start : start + FLUSH_COUNT]
            key = self._key("forgotten", self._name)
            kv = self._client.get(key).kv
            state = _decode_forgotten(kv.value) if kv is not None else ForgottenState()
            forgotten = Forgotten(state, bytes_max=FORGOTTEN_BYTES_MAX)
            for found in (_parsed(name) for name in some if name not in aborted):
                forgotten.add(found.epoch, found.sequence)
            note = Put(key, _encode(forgotten.state()))
            seen = mod_revision(key) == (kv.mod_revision if kv is not None else 0)
            if not self._client.txn([seen], [note, *(Delete(cells + name) for name in some)]).succeeded:
                break  # another thread, or another process in our place, is at it: its bits must not be lost
        return bool(drop)

    def note_refused(self, gid: str) -> None:
        found = _parsed(gid)
        commit = self.commit_of(found)
        if commit is None or not commit.delegate:
            return
        cell = self._key("cell", found.coordinator, gid)
        then: list[Operation] = [
            Put(cell, _encode(Abort(gid, "the last resource"))),
            Delete(self._key("pending", gid)),
        ]
        if commit.key:
            then.append(Delete(self._key("key", commit.key)))
        self._client.txn([value(cell) == _encode(commit)], then)

    def unapplied(self) -> list[Commit]:
        with self._lock:
            done = set(self._done)
        gids = [kv.key.decode().rpartition("/")[2] for kv in self._range("pending/")]
        found = [self.commit_of(_parsed(gid)) for gid in gids if gid not in done]
        return [commit for commit in found if commit is not None]

    def _range(self, what: str) -> list[KeyValue]:
        return self._client.range(prefix=self._prefix + what).kvs

    # ---- coordinators, members, heuristics -------------------------------------------------------------

    def coordinators(self) -> list[Coordinator]:
        epochs = {kv.key.decode().rpartition("/")[2]: _decode_epoch(kv.value) for kv in self._range("epoch/")}
        alive = {kv.key.decode().rpartition("/")[2] for kv in self._range("alive/")}
        return [
            Coordinator(name, cell.number, cell.owned and (name in alive or name == self._name))
            for name, cell in sorted(epochs.items())
        ]

    def close_epoch(self, coordinator: str, *, even_if_alive: bool = False) -> bool:
        if coordinator == self._name:
            return False
        key = self._key("epoch", coordinator)
        while True:
            reply = self._client.txn((), [Get(key), Get(self._key("alive", coordinator))])
            kv, alive = (_first(result) for result in reply.responses)
            if kv is None:
                return True
            if alive is not None and not even_if_alive:
                return False
            cell = _decode_epoch(kv.value)
            if not cell.owned:
                return True
            closed = _encode(_EpochCell(cell.number + 1, False))
            if self._client.txn([mod_revision(key) == kv.mod_revision], [Put(key, closed)]).succeeded:
                return True

    def register(self, members: Sequence[Member]) -> None:
        known = self.members()
        new = [member for member in members if known.get(member.name) != member]
        if new:
            self._client.txn((), [Put(self._key("member", member.name), _encode(member)) for member in new])

    def members(self) -> dict[str, Member]:
        found = [_decode_member(kv.value) for kv in self._range("member/")]
        return {member.name: member for member in found}

    def note_heuristic(self, record: Heuristic) -> None:
        self._client.put(self._key("heuristic", record.gid, record.participant), _encode(record))

    def heuristics(self) -> list[Heuristic]:
        return [_decode_heuristic(kv.value) for kv in self._range("heuristic/")]

    def forget(self, gid: str, by: str) -> bool:
        return self._client.delete(prefix=self._key("heuristic", gid) + "/").deleted > 0

    def close(self) -> None:
        """Give the place free at once, so that nobody waits for the lease to run out."""
        try:
            with self._lock:
                done, self._done = self._done, []
            for operations in self._applied_operations(done):
                self._client.txn((), operations)
            # Not by its key: if our lease has run out, that may be another process's by now.
            self._lease.revoke()
        except TrothError:
            pass  # the lease runs out, and recovery finds out again what was applied
        finally:
            if self._owns_client:
                self._client.close()


def _verdict_of(cell: Commit | Abort) -> Verdict:
    if isinstance(cell, Abort):
        return Verdict.ABORT
    return Verdict.DELEGATED if cell.delegate else Verdict.COMMIT


def _parsed(gid: str) -> Gid:
    found = parse_gid(gid)
    if found is None:
        raise UsageError(f"{gid!r} is no transaction's name")
    return found[0]


def _first(result: object) -> KeyValue | None:
    return result.kvs[0] if isinstance(result, RangeReply) and result.kvs else None


def _seen(reply: TxnReply) -> _Seen:
    """What the reads of `_reads` found."""
    cell, epoch, forgotten, *holder = (_first(result) for result in reply.responses)
    return _Seen(
        _decode_cell(cell.value) if cell is not None else None,
        _decode_epoch(epoch.value) if epoch is not None else None,
        _decode_forgotten(forgotten.value) if forgotten is not None else ForgottenState(),
        holder[0].value.decode() if holder and holder[0] is not None else None,
    )
