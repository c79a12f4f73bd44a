"""What can be done for commands before they are applied, in steps, while nothing that can be seen changes.

At present that is one thing, the deletion of very many keys (deletion.py says why). What was prepared is used only if
it is still exactly what applying would do; else it is thrown away. Whether it was makes no difference that could be
seen, so replicas need not agree about it.
"""

from collections.abc import Iterable, Iterator

from troth.kv.deletion import Deletion
from troth.kv.keyspace import KeySpace
from troth.kv.requests import Command, DeleteRange

SLICE_KEYS = 8192
"""Keys made ready in one step: a few milliseconds. A deletion of fewer is not worth it."""


class _Prepared:
    """What was made ready for one `DeleteRange` that stands in the log, some commands further on."""

    def __init__(self, request: DeleteRange, *, since: int, revision: int) -> None:
        """*since*: the store's revision now; *revision*: what the deletion's is expected to be."""
        self.request = request
        self.since = since
        self.deletion = Deletion(revision)
        self.is_whole = False


class Preparations:
    """What is ready for the commands that come next."""

    def __init__(self, space: KeySpace) -> None:
        self._space = space
        self._prepared: _Prepared | None = None

    def begin(self, commands: Iterable[Command]) -> Iterator[None] | None:
        """The steps of what is to be prepared for *commands*; None: nothing, or nothing any more."""
        space = self._space
        revision = space.revision
        for command in commands:
            # Most commands make one revision; where this one does not, the deletion is made ready in vain.
            if type(command) is DeleteRange and space.live_count(command.key, command.range_end) > SLICE_KEYS:
                prepared = self._prepared
                if prepared is not None and self._is_good(prepared, command, revision):
                    return None
                self._prepared = _Prepared(command, since=space.revision, revision=revision + 1)
                return self._steps(self._prepared)
            revision += 1
        return None

    def take(self, request: DeleteRange) -> Deletion | None:
        """What was made ready for *request*, which is applied now; None: nothing that holds."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None and self._is_good(prepared, request, self._space.revision):
            return prepared.deletion
        return None

    def drop(self) -> None:
        """What was made ready is not wanted any more: its batch had been answered before, and was not applied again."""
        self._prepared = None

    def _steps(self, prepared: _Prepared) -> Iterator[None]:
        request = prepared.request
        for index, live in self._space.slices(request.key, request.range_end, SLICE_KEYS):
            prepared.deletion.add(index, live)
            yield
        prepared.is_whole = True

    def _is_good(self, prepared: _Prepared, request: DeleteRange, revision: int) -> bool:
        """Whether *prepared* is what *request* does when it is applied at the revision after *revision*."""
        return (
            prepared.is_whole
            and prepared.request == request
            and prepared.deletion.revision == revision + 1
            and self._space.unwritten_since(prepared.since, request.key, request.range_end)
        )
