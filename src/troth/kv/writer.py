"""How keys and leases change together: puts, deletions and the operations of a transaction, once they are admitted.

Everything is checked before the first write, so that a change is done whole or not at all without undoing.
"""

from collections.abc import Iterator, Sequence
from typing import assert_never

from troth.kv import refusals
from troth.kv.deletion import Deletion
from troth.kv.keyspace import KeySpace
from troth.kv.leases import LeaseTable
from troth.kv.ranges import read_range, unreadable
from troth.kv.requests import (
    DeleteRange,
    DeleteRangeResult,
    Failure,
    KeyValue,
    Operation,
    OperationResult,
    Put,
    PutResult,
    Range,
    RangeResult,
    Txn,
    TxnResult,
)


class Writer:
    """Writes into one key space and its leases. The caller commits the revision afterwards."""

    __slots__ = ("_leases", "_space")

    def __init__(self, space: KeySpace, leases: LeaseTable) -> None:
        self._space = space
        self._leases = leases

    def check_put(self, put: Put) -> Failure | None:
        """What the data say against a put that stands alone."""
        # etcd looks at the lease first here, and at the key first in a transaction.
        return self._check_lease(put) or self._check_previous(put)

    def check_operations(self, operations: Sequence[Operation]) -> Failure | None:
        """What the data say against *operations*, all that a transaction will do. After this nothing can fail."""
        # Puts before ranges, as in etcd. All are looked up in the state before the transaction: no other operation
        # of it can write a key that is put.
        for operation in operations:
            if isinstance(operation, Put):
                failure = self._check_previous(operation) or self._check_lease(operation)
                if failure is not None:
                    return failure
        for operation in operations:
            if isinstance(operation, Range):
                failure = self._check_revision(operation.revision)
                if failure is not None:
                    return failure
        return None

    def _check_revision(self, revision: int) -> Failure | None:
        """Why a range of a transaction cannot be read at *revision*."""
        # Alone a negative one means the present; here etcd compares it with its compact revision, at first -1.
        if revision < 0 and revision < (self._space.compact_revision or -1):
            return refusals.COMPACTED
        return unreadable(self._space, revision)

    def _check_previous(self, put: Put) -> Failure | None:
        """What a put keeps of the previous version must be there."""
        keeps = put.ignore_value or put.ignore_lease
        return refusals.KEY_NOT_FOUND if keeps and self._space.get(put.key) is None else None

    def _check_lease(self, put: Put) -> Failure | None:
        """The lease that a put names must be there."""
        return refusals.LEASE_NOT_FOUND if put.lease and put.lease not in self._leases else None

    def put(self, put: Put, revision: int) -> PutResult:
        """Write; all checks are made."""
        key, value, lease = put.key, put.value, put.lease
        newest = self._space.get(key)
        if newest is not None:
            if put.ignore_value:
                value = newest.value
            if put.ignore_lease:
                lease = newest.lease
        former = 0 if newest is None else newest.lease
        version = self._space.put(key, value, lease, revision)
        if lease != former:
            if former:
                self._leases.detach(former, key)
            if lease:
                self._leases.attach(lease, version.key)
        return PutResult(revision, newest if put.prev_kv else None)

    def delete(self, request: DeleteRange, revision: int) -> DeleteRangeResult:
        return self.delete_ready(
            request, self._deletion(self._space.live(request.key, request.range_end), revision)
        )

    def delete_ready(self, request: DeleteRange, deletion: Deletion) -> DeleteRangeResult:
        """Do *request*, for which *deletion* was made ready."""
        self.delete_now(deletion)
        found = deletion.live
        return DeleteRangeResult(deletion.revision, len(found), found if request.prev_kv else [])

    def delete_versions(self, versions: Sequence[KeyValue], revision: int) -> None:
        self.delete_now(self._deletion(versions, revision))

    def _deletion(self, versions: Sequence[KeyValue], revision: int) -> Deletion:
        deletion = Deletion(revision)
        deletion.add(self._space.index, versions)
        return deletion

    def delete_now(self, deletion: Deletion) -> None:
        """Put the tombstones of *deletion* in place."""
        self._space.delete_all(deletion)
        for lease, keys in deletion.leased.items():
            self._leases.detach_all(lease, keys)

    def run(self, txn: Txn, path: Iterator[bool], revision: int) -> tuple[bool, list[OperationResult]]:
        """Do the branches of *txn* that *path* chooses, all of it at *revision*."""
        space = self._space
        succeeded = next(path)
        responses: list[OperationResult] = []
        for operation in txn.success if succeeded else txn.failure:
            match operation:
                case Put():
                    responses.append(self.put(operation, revision))
                case Range():
                    past = operation.revision if operation.revision > 0 else None
                    kvs, count, more = read_range(space, operation, past)
                    responses.append(RangeResult(self._revision_so_far(revision), kvs, count, more))
                case DeleteRange():
                    result = self.delete(operation, revision)
                    if not result.deleted:
                        result = DeleteRangeResult(self._revision_so_far(revision), 0)
                    responses.append(result)
                case Txn():
                    # The header of a nested answer is empty in etcd; the outer one has the revision.
                    responses.append(TxnResult(0, *self.run(operation, path, revision)))
                case _:
                    assert_never(operation)
        return succeeded, responses

    def _revision_so_far(self, revision: int) -> int:
        """What etcd shows in the middle of a transaction: *revision* once something was written at it."""
        log = self._space.log
        return revision if log and log[-1].mod_revision == revision else self._space.revision
