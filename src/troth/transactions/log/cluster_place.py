"""A coordinator's place in the decision log of a cluster: its name, the lease that says it lives, its open epoch."""

import contextlib
import secrets

from troth.client.operations import Get, Put, create_revision, mod_revision
from troth.client.sync import Client, Lease
from troth.core.twophase.gid import Epoch, base36, drawn_log
from troth.errors import NotApplied, RequestError, TrothError
from troth.transactions.log.interface import PLACES_MAX, Coordinator
from troth.transactions.log.keys import EpochCell, Keys, decode, encode, first, last_part

ALIVE_TTL_S = 10


class ClusterPlace:
    """A place of the log whose keys are *keys*.

    Attributes:
        name: what this coordinator is called in the log.
        epoch: the epoch that it opened last.
    """

    def __init__(self, client: Client, keys: Keys, *, coordinator: str | None) -> None:
        """Take the place *coordinator*, or the first without a living holder, and open its next epoch.

        Raises:
            RequestError: the cluster cannot be used, or the place is held.
        """
        self._client = client
        self._keys = keys
        self.log_id = self._drawn_id()
        self._wanted = coordinator
        self.name, self._lease = self._take()
        try:
            self.epoch = self._open_epoch()
        except BaseException:
            with contextlib.suppress(TrothError):
                self._lease.revoke()
            raise

    def _drawn_id(self) -> str:
        key = self._keys("id")
        self._client.txn([create_revision(key) == 0], [Put(key, drawn_log(secrets.randbelow))])
        kv = self._client.get(key).kv
        if kv is None:
            raise RequestError(f"{key} was deleted; recovery needs it")
        return kv.value.decode()

    def _take(self, before: str = "") -> tuple[str, Lease]:
        """A place that nobody holds, and the lease by which we hold it; the one of *before* if it is free again."""
        wanted = self._wanted
        lease = self._client.lease(ALIVE_TTL_S)
        try:
            for name in [wanted] if wanted else [*filter(None, [before]), *map(base36, range(PLACES_MAX))]:
                alive = self._keys("alive", name)
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
        key = self._keys("epoch", self.name)
        while True:
            kv = self._client.get(key).kv
            number = 1 + (decode(kv, EpochCell).number if kv is not None else 0)
            seen = mod_revision(key) == (kv.mod_revision if kv is not None else 0)
            if self._client.txn([seen], [Put(key, encode(EpochCell(number, True)))]).succeeded:
                return Epoch(self.log_id, self.name, number)

    def renew(self) -> Epoch:
        """Our epoch was closed by somebody: open another one. What was begun in the old one is aborted.

        If our lease has run out, our place may be another process's by now. Then we take another one: two in one place
        would close each other's epochs for ever.

        Raises:
            NotApplied: the place that we were told to take is held by another process.
        """
        kv = self._client.get(self._keys("alive", self.name)).kv
        if kv is None or kv.lease != self._lease.id:
            self.name, self._lease = self._take(self.name)
        self.epoch = self._open_epoch()
        return self.epoch

    def give_up(self) -> None:
        """Free it at once, so that nobody waits for the lease to run out."""
        # Not by its key: if our lease has run out, that may be another process's by now.
        self._lease.revoke()

    def coordinators(self) -> list[Coordinator]:
        epochs = {
            last_part(kv): decode(kv, EpochCell) for kv in self._client.range(prefix=self._keys("epoch/")).kvs
        }
        alive = {last_part(kv) for kv in self._client.range(prefix=self._keys("alive/")).kvs}
        return [
            Coordinator(name, cell.number, cell.owned and (name in alive or name == self.name))
            for name, cell in sorted(epochs.items())
        ]

    def close_epoch(self, coordinator: str, *, even_if_alive: bool = False) -> bool:
        if coordinator == self.name:
            return False
        key = self._keys("epoch", coordinator)
        while True:
            reply = self._client.txn((), [Get(key), Get(self._keys("alive", coordinator))])
            kv, alive = (first(result) for result in reply.responses)
            if kv is None:
                return True
            if alive is not None and not even_if_alive:
                return False
            cell = decode(kv, EpochCell)
            if not cell.owned:
                return True
            closed = encode(EpochCell(cell.number + 1, False))
            if self._client.txn([mod_revision(key) == kv.mod_revision], [Put(key, closed)]).succeeded:
                return True
