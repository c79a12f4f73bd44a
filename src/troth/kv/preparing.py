"""What can be done for commands before they are applied, in steps, while nothing that can be seen changes.

That is the deletion of very many keys, of a range or of a lease (deletion.py says why). What was prepared is used only
if it is still exactly what applying would do; else it is thrown away. Whether it was makes no difference that could be
seen, so replicas need not agree about it. Before that comes the order of the keys, if much has moved and somebody asks
for a range.
"""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from troth.kv.deletion import Deletion
from troth.kv.keyspace import KeySpace
from troth.kv.leases import LeaseTable
from troth.kv.requests import Command, DeleteRange, LeaseRevoke, Put, Range, Txn

Deleting: TypeAlias = DeleteRange | LeaseRevoke

SLICE_KEYS = 8192
"""Keys made ready in one step: a few milliseconds. A deletion of fewer is not worth it."""


def _needs_order(command: Command | Range) -> bool:
    """Whether *command* looks at ranges."""
    if isinstance(command, Txn):
        return any(compare.range_end for compare in command.compare) or any(
            map(_needs_order, (*command.success, *command.failure))
        )
    return isinstance(command, DeleteRange | Range) and bool(command.range_end)


class _Prepared:
    """What was made ready for one command that stands in the log, some others further on."""

    def __init__(self, request: Deleting, *, since: int, revision: int) -> None:
        """*since*: the store's revision now; *revision*: what the deletion's is expected to be."""
        self.request = request
        self.since = since
        self.deletion = Deletion(revision)
        self.is_whole = False


class Preparations:
    """What is ready for the commands that come next."""

    def __init__(self, space: KeySpace, leases: LeaseTable) -> None:
        self._space = space
        self._leases = leases
        self._prepared: _Prepared | None = None

    def begin(self, commands: Iterable[Command]) -> Iterator[None] | None:
        """The steps of what is to be prepared for *commands*; None: nothing, or nothing any more."""
        space = self._space
        if space.order.is_behind:
            commands = list(commands)
            if any(map(_needs_order, commands)):
                return space.order.settle_steps()
        revision = space.revision
        for command in commands:
            count = self._count(command)
            if count > SLICE_KEYS and isinstance(command, Deleting):
                prepared = self._prepared
                if prepared is not None and self._is_good(prepared, command, revision):
                    return None
                self._prepared = _Prepared(command, since=space.revision, revision=revision + 1)
                return self._steps(self._prepared)
            # Where this errs (about a transaction, say), the deletion is made ready in vain.
            revision += count > 0
        return None

    def _count(self, command: Command) -> int:
        """How many keys *command* writes, about."""
        if type(command) is DeleteRange:
            return self._space.live_count(command.key, command.range_end)
        if type(command) is LeaseRevoke:
            return self._leases.keys_count(command.id)
        return 1 if isinstance(command, Put | Txn) else 0

    def take(self, request: Deleting) -> Deletion | None:
        """What was made ready for *request*, which is applied now; None: nothing that holds."""
        prepared = self._prepared
        if prepared is None or prepared.request != request:
            return None
        self._prepared = None
        return prepared.deletion if self._is_good(prepared, request, self._space.revision) else None

    def drop(self) -> None:
        """What was made ready is not wanted any more: its batch had been answered before, and was not applied again."""
        self._prepared = None

    def _steps(self, prepared: _Prepared) -> Iterator[None]:
        space, request, deletion = self._space, prepared.request, prepared.deletion
        if isinstance(request, DeleteRange):
            for index, live in space.slices(request.key, request.range_end, SLICE_KEYS):
                deletion.add(index, live)
                yield
        else:
            for keys in self._leases.slices(request.id, SLICE_KEYS):
                deletion.add(space.index, [version for key in keys if (version := space.get(key)) is not None])
                yield
        prepared.is_whole = True

    def _is_good(self, prepared: _Prepared, request: Deleting, revision: int) -> bool:
        """Whether *prepared* is what *request* does when it is applied at the revision after *revision*."""
        if not prepared.is_whole or prepared.request != request or prepared.deletion.revision != revision + 1:
            return False
        if isinstance(request, DeleteRange):
            return self._space.unwritten_since(prepared.since, request.key, request.range_end)
        # A key that has left the lease is missing now, one that has come, or was written again, names it.
        written = self._space.written_since(prepared.since)
        return len(prepared.deletion.live) == self._leases.keys_count(request.id) and not any(
            version.lease == request.id for version in written
        )
