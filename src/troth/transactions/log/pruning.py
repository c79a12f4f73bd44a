"""What a cluster's decision log drops: the names of applied transactions, of which a bit each stays."""

from collections.abc import Sequence
from contextlib import suppress

from troth.client.operations import Delete, Put, mod_revision
from troth.client.sync import Client
from troth.core.twophase.cells import APPLIED_KEPT
from troth.core.twophase.forgotten import Forgotten, ForgottenState
from troth.core.twophase.records import Abort
from troth.errors import Corrupt
from troth.kv.requests import KeyValue, SortOrder, SortTarget
from troth.transactions.log.keys import Keys, decode, decode_cell, encode, last_part, parsed

AT_ONCE = 60
"""So many cells are dropped by one transaction of the store, which has a bound on operations: two for each."""
PAGE_MAX = 4000
FORGOTTEN_BYTES_MAX = 64 << 10
"""Read with every question about an absent cell: half a million transactions."""


class Pruning:
    """Of the log whose keys are *keys*."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def prune(self, coordinator: str, epoch: int) -> None:
        """Drop the oldest applied cells of *coordinator*, whose open epoch is *epoch*, and say which."""
        cells = self._keys("cell", coordinator) + "/"
        count = self._client.range(prefix=cells, limit=1, keys_only=True).count
        if count <= APPLIED_KEPT:
            return
        pending = {last_part(kv) for kv in self._client.range(prefix=self._keys("pending/")).kvs}
        left, since = count - APPLIED_KEPT, 0
        while left > 0:
            # A page may hold nothing that can be dropped (a database is away for days): what is behind it can.
            page = self._client.range(
                prefix=cells,
                limit=min(left, PAGE_MAX),
                sort_order=SortOrder.ASCEND,
                sort_target=SortTarget.CREATE,
                min_create_revision=since,
            ).kvs
            if not page or self._drop(coordinator, epoch, page, pending):
                return
            left, since = left - len(page), page[-1].create_revision + 1

    def _drop(self, coordinator: str, epoch: int, oldest: Sequence[KeyValue], pending: set[str]) -> bool:
        """Drop what can be dropped of *oldest*; False if that is nothing."""
        cells = self._keys("cell", coordinator) + "/"
        found_cells = {}
        for each in oldest:
            with suppress(Corrupt):  # it stays, for whoever has to say what it was
                found_cells[each.key.decode().removeprefix(cells)] = decode_cell(each)
        # An abort keeps its cell while a Commit may still come for it, and then needs none: an empty one says the same.
        aborted = {name for name, cell in found_cells.items() if isinstance(cell, Abort)}
        drop = [
            name
            for name in found_cells
            if name not in pending and (name not in aborted or parsed(name).epoch < epoch)
        ]
        for start in range(0, len(drop), AT_ONCE):
            some = drop[start : start + AT_ONCE]
            key = self._keys("forgotten", coordinator)
            kv = self._client.get(key).kv
            state = decode(kv, ForgottenState) if kv is not None else ForgottenState()
            forgotten = Forgotten(state, bytes_max=FORGOTTEN_BYTES_MAX)
            for found in (parsed(name) for name in some if name not in aborted):
                forgotten.add(found.epoch, found.sequence)
            note = Put(key, encode(forgotten.state()))
            seen = mod_revision(key) == (kv.mod_revision if kv is not None else 0)
            # What was dealt with goes too: recovery never asks again.
            dealt = [Delete(prefix=self._keys("dealt", name) + "/") for name in some]
            if not self._client.txn([seen], [note, *dealt, *(Delete(cells + name) for name in some)]).succeeded:
                break  # another thread, or another process in our place, is at it: its bits must not be lost
        return bool(drop)
