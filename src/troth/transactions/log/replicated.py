"""The replicated decision log: the same records as keys of a troth cluster, so that any surviving process finishes.

Everything is a compare-and-set transaction of the store; nothing here is more than one of them. What stands
under which key: keys.py; places and epochs: cluster_place.py.

*Commit wins if the epoch's key still says our number, the cell does not exist and the caller's key is free*: one
transaction, so no clock and no lock. Whoever is not answered reads the cell by trying to win it for abort: whatever
stands there afterwards is the decision, and a Commit that is still under way can only lose.
"""

import asyncio
import threading
from collections.abc import Sequence

from troth.client.operations import Delete, Put, create_revision, value
from troth.client.replies import TxnReply
from troth.client.sync import Client, connect
from troth.core.twophase.cells import Verdict
from troth.core.twophase.forgotten import Forgotten
from troth.core.twophase.gid import NAME_RULE, Epoch, Gid, is_name
from troth.core.twophase.records import Abort, Commit, Heuristic, Member
from troth.errors import Corrupt, NotApplied, OutcomeUnknown, RequestError, TrothError, UsageError
from troth.kv.requests import Compare, KeyValue, Operation
from troth.transactions.log.cluster_place import ClusterPlace
from troth.transactions.log.interface import Coordinator, Decided
from troth.transactions.log.keys import (
    EpochCell,
    Keys,
    Seen,
    decode,
    decode_cell,
    encode,
    last_part,
    parsed,
    seen,
    verdict_of,
)
from troth.transactions.log.pruning import Pruning

ASK_AGAIN_TIMES = 3
FLUSH_COUNT = 64
PRUNE_EVERY = 1000


class ReplicatedLog:
    """A `DecisionLog` in a troth cluster. See the module."""

    def __init__(
        self, client: Client, *, name: str = "troth", coordinator: str | None = None, owns_client: bool = False
    ) -> None:
        """Take a place (*coordinator*, or the first without a living holder) and open its next epoch.

        Raises:
            UsageError: *name* or *coordinator* is no name (gid.py).
            RequestError: the cluster cannot be used, or the place is held.
        """
        for each in (name, coordinator or "0"):
            if not is_name(each):
                raise UsageError(f"{each!r}: {NAME_RULE}")
        self._client = client
        self._owns_client = owns_client
        self._keys = Keys(name)
        self._lock = threading.Lock()
        self._done: list[str] = []
        self._applied = 0
        self._place = ClusterPlace(client, self._keys, coordinator=coordinator)
        self._pruning = Pruning(client, self._keys)
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

    @property
    def log_id(self) -> str:
        return self._place.log_id

    @property
    def epoch(self) -> Epoch:
        return self._place.epoch

    def renew(self) -> Epoch:
        return self._place.renew()

    def coordinators(self) -> list[Coordinator]:
        return self._place.coordinators()

    def close_epoch(self, coordinator: str, *, even_if_alive: bool = False) -> bool:
        return self._place.close_epoch(coordinator, even_if_alive=even_if_alive)

    # ---- cells -------------------------------------------------------------------------------------------

    def decide(self, commits: Sequence[Commit]) -> list[Decided | TrothError]:
        """See `DecisionLog.decide`: all of *commits* travel together, each as a transaction of its own."""
        with self._lock:
            done, self._done = self._done, []
        applied = self._applied_operations(done)

        async def all_at_once() -> list[TxnReply | BaseException]:
            waiting = [self._try(commit) for commit in commits]
            notes = [self._client.aio.txn((), operations) for operations in applied]
            answers = await asyncio.gather(*waiting, *notes, return_exceptions=True)
            return answers[: len(commits)]

        replies = self._client.background.run(all_at_once)
        answers: list[Decided | TrothError] = []
        is_silent = False
        for commit, reply in zip(commits, replies, strict=True):
            try:
                answers.append(self._read_answer(commit, reply, 0 if is_silent else ASK_AGAIN_TIMES))
            except Corrupt as error:
                answers.append(OutcomeUnknown(f"{commit.gid}: {error}"))
                continue
            # Nobody waits for the silence of each of a batch: recovery asks for them when there is a log again.
            is_silent = is_silent or isinstance(answers[-1], OutcomeUnknown)
        return answers

    async def _try(self, commit: Commit) -> TxnReply:
        return await self._client.aio.txn(*self._attempt(commit))

    def _attempt(self, commit: Commit) -> tuple[list[Compare], list[Operation], list[Operation]]:
        gid = parsed(commit.gid)
        cell = self._keys("cell", gid.coordinator, commit.gid)
        epoch = self._keys("epoch", gid.coordinator)
        compare: list[Compare] = [
            value(epoch) == encode(EpochCell(gid.epoch, True)),
            create_revision(cell) == 0,
        ]
        put: list[Operation] = [Put(cell, encode(commit)), Put(self._keys("pending", commit.gid))]
        if commit.key:
            key = self._keys("key", commit.key)
            compare.append(create_revision(key) == 0)
            put.append(Put(key, commit.gid))
        return compare, put, self._keys.reads(gid, commit.key)

    def _read_answer(self, commit: Commit, reply: TxnReply | BaseException, times: int) -> Decided | TrothError:
        if isinstance(reply, BaseException):
            if not isinstance(reply, RequestError):
                return OutcomeUnknown(f"{commit.gid}: {reply}")
            return self._ask_again(commit, reply, times)
        if reply.succeeded:
            return Decided(verdict_of(commit, is_pending=True), commit.gid)
        return self._judge(commit, seen(reply))

    def _judge(self, commit: Commit, found: Seen) -> Decided:
        """Why *commit* did not win."""
        if found.cell is not None:
            return Decided(verdict_of(found.cell, is_pending=found.is_pending), commit.gid)
        if found.holder is not None:
            return Decided(Verdict.COMMIT, found.holder)
        return Decided(Verdict.ABORT, commit.gid)

    def _ask_again(self, commit: Commit, error: RequestError, times: int) -> Decided | TrothError:
        """Not answered. Reading would not do, since the Commit may still arrive: try to win the cell for abort.

        To win it says nothing about our epoch. So that is no verdict, which would make us open another one.
        """
        if isinstance(error, NotApplied):
            return error
        for _ in range(times):
            try:
                verdict = self.abort(Abort(commit.gid, "its owner, which was not answered"))
            except RequestError as again:
                error = again
            else:
                if verdict is Verdict.ABORT:
                    return NotApplied(
                        f"{commit.gid}: the decision log did not answer in time, so it says abort now: {error}"
                    )
                return Decided(verdict, commit.gid)
        return OutcomeUnknown(f"{commit.gid}: the decision log did not answer: {error}")

    def abort(self, record: Abort) -> Verdict:
        gid = parsed(record.gid)
        if gid.log != self._place.log_id:
            return Verdict.FOREIGN
        cell = self._keys("cell", gid.coordinator, record.gid)
        reply = self._client.txn([create_revision(cell) == 0], [Put(cell, encode(record))], self._keys.reads(gid))
        if reply.succeeded:
            return Verdict.ABORT
        return self._verdict_from(gid, seen(reply))

    def verdict(self, gid: Gid) -> Verdict:
        if gid.log != self._place.log_id:
            return Verdict.FOREIGN
        return self._verdict_from(gid, seen(self._client.txn((), self._keys.reads(gid))))

    def _verdict_from(self, gid: Gid, found: Seen) -> Verdict:
        if found.cell is not None:
            return verdict_of(found.cell, is_pending=found.is_pending)
        if found.epoch is None or gid.epoch > found.epoch.number:
            return Verdict.FOREIGN
        if Forgotten(found.forgotten).may_hold(gid.epoch, gid.sequence):
            return Verdict.FORGOTTEN
        return Verdict.OPEN if found.epoch == EpochCell(gid.epoch, True) else Verdict.ABORT

    def commit_of(self, gid: Gid) -> Commit | None:
        kv = self._client.get(self._keys("cell", gid.coordinator, str(gid))).kv
        found = decode_cell(kv) if kv is not None else None
        return found if isinstance(found, Commit) else None

    def holder_of(self, key: str) -> str | None:
        kv = self._client.get(self._keys("key", key)).kv
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
            others = any(parsed(gid).coordinator != self._place.name for gid in gids)
            due = self._done if others or is_time_to_prune or len(self._done) >= FLUSH_COUNT else []
            if due:
                self._done = []
        for operations in self._applied_operations(due):
            self._client.txn((), operations)
        if is_time_to_prune:
            self._prune()

    def _applied_operations(self, gids: Sequence[str]) -> list[list[Operation]]:
        """In as many transactions as the store's bound on operations wants."""
        deletes: list[Operation] = [Delete(self._keys("pending", gid)) for gid in gids]
        return [deletes[start : start + FLUSH_COUNT] for start in range(0, len(deletes), FLUSH_COUNT)]

    def _prune(self) -> None:
        self._pruning.prune(self._place.name, self.epoch.number)

    def note_refused(self, gid: str) -> None:
        found = parsed(gid)
        commit = self.commit_of(found)
        if commit is None or not commit.delegate or gid in self._done:
            return
        cell = self._keys("cell", found.coordinator, gid)
        then: list[Operation] = [
            Put(cell, encode(Abort(gid, "the last resource"))),
            Delete(self._keys("pending", gid)),
        ]
        if commit.key:
            then.append(Delete(self._keys("key", commit.key)))
        # What is applied is committed, whatever a last resource says that was restored from a backup.
        self._client.txn([value(cell) == encode(commit), create_revision(self._keys("pending", gid)) != 0], then)

    def unapplied(self, unread: dict[str, str] | None = None) -> list[Commit]:
        with self._lock:
            done = set(self._done)
        gids = [last_part(kv) for kv in self._range("pending/")]
        found = []
        for gid in gids:
            if gid not in done:
                try:
                    found.append(self.commit_of(parsed(gid)))
                except Corrupt as error:
                    if unread is None:
                        raise
                    unread[parsed(gid).coordinator] = str(error)
        return [commit for commit in found if commit is not None]

    def _range(self, what: str) -> list[KeyValue]:
        return self._client.range(prefix=self._keys(what)).kvs

    # ---- coordinators, members, heuristics -------------------------------------------------------------

    def register(self, members: Sequence[Member]) -> None:
        known = self._members()
        new = [member for member in members if known.get(member.name) != member]
        if new:
            self._client.txn((), [Put(self._keys("member", member.name), encode(member)) for member in new])

    def members(self) -> dict[str, dict[str, Member]]:
        known = self._members()  # which all coordinators share
        return {coordinator.name: known for coordinator in self.coordinators()}

    def _members(self) -> dict[str, Member]:
        found = [decode(kv, Member) for kv in self._range("member/")]
        return {member.name: member for member in found}

    def note_heuristic(self, record: Heuristic) -> bool:
        key, dealt = (self._keys(what, record.gid, record.participant) for what in ("heuristic", "dealt"))
        is_new = [create_revision(key) == 0, create_revision(dealt) == 0]
        return self._client.txn(is_new, [Put(key, encode(record))]).succeeded

    def heuristics(self) -> list[Heuristic]:
        return [decode(kv, Heuristic) for kv in self._range("heuristic/")]

    def forget(self, gid: str, by: str) -> bool:
        noted, dealt = (self._keys(what, gid) + "/" for what in ("heuristic", "dealt"))
        found = [kv.key.decode() for kv in self._client.range(prefix=noted, keys_only=True).kvs]
        for start in range(0, len(found), FLUSH_COUNT // 2):  # two operations for each
            some = found[start : start + FLUSH_COUNT // 2]
            puts: list[Operation] = [Put(dealt + key.removeprefix(noted), by) for key in some]
            self._client.txn((), [*puts, *(Delete(key) for key in some)])
        return bool(found)

    def close(self) -> None:
        """Give the place free at once, so that nobody waits for the lease to run out."""
        try:
            with self._lock:
                done, self._done = self._done, []
            for operations in self._applied_operations(done):
                self._client.txn((), operations)
            self._place.give_up()
        except TrothError:
            pass  # the lease runs out, and recovery finds out again what was applied
        finally:
            if self._owns_client:
                self._client.close()
