"""Leases: their time is kept by the leader, their end is decided through the log (kv/lessor.py)."""

import msgspec
from typing_extensions import override

from troth.errors import NotLeader
from troth.kv.lessor import Lessor
from troth.kv.requests import LeaseGrantResult, LeaseRevoke, LeaseRevokeResult
from troth.replica.effects import ClientId
from troth.replica.machine import LoggedCommand, Outcome
from troth.replica.protocol import LeaseKeepAlive, LeaseTimeToLive, LeaseTtls, LeaseView, Writes
from troth.replica.reading import ReadPath
from troth.replica.state import NO_CLIENT, ReplicaStart

_encode = msgspec.msgpack.Encoder().encode
_LEASE_RESULTS = frozenset({LeaseGrantResult, LeaseRevokeResult})


class LeasePath(ReadPath):
    """Keep-alive, time to live, expiry."""

    def __init__(self, start: ReplicaStart) -> None:
        super().__init__(start)
        self._lessor = Lessor(units_per_s=start.config.ticks_per_second)

    def _on_keep_alive(self, client: ClientId, message: LeaseKeepAlive) -> None:
        """Renew once it is sure that this server still leads: a deposed leader's clock counts for nothing."""

        def renew(_: int) -> None:
            if self._leading:
                ttls = [self._lessor.renew(lease, self._now) or -1 for lease in message.ids]
                self._reply(client, LeaseTtls(message.call, ttls))
            else:
                self._refuse_call(client, message.call, NotLeader.code, "leases are kept alive by the leader")

        if self._leading:
            self._at_point(client, message.call, renew)
        else:
            self._refuse_call(client, message.call, NotLeader.code, "leases are kept alive by the leader")

    def _on_time_to_live(self, client: ClientId, message: LeaseTimeToLive) -> None:
        def tell(_: int) -> None:
            leases = self.machine.store.lease_table
            granted_ttl_s = leases.ttl_s.get(message.id)
            if granted_ttl_s is None:
                self._reply(client, LeaseView(message.call, message.id, -1, 0, []))
                return
            if not self._leading:
                self._refuse_call(client, message.call, NotLeader.code, "the leader keeps the time of leases")
                return
            ttl_s = self._lessor.remaining_s(message.id, self._now)
            keys = leases.unsorted_keys(message.id) if message.keys else []
            self._list(client, LeaseView(message.call, message.id, ttl_s, granted_ttl_s, []), keys)

        if self._leading:
            self._at_point(client, message.call, tell)
        else:
            self._refuse_call(client, message.call, NotLeader.code, "the leader keeps the time of leases")

    def _revoke_expired(self) -> None:
        """Leases that have run out end for everybody at one place in the log."""
        expired = self._lessor.expired(self._now)
        if expired:
            grants = self.machine.store.lease_table.grants
            commands = tuple(LeaseRevoke(lease, grants.get(lease, 0)) for lease in expired)
            batch = Writes(0, 0, 0, commands)
            self._take_in(NO_CLIENT, batch, _encode(batch))

    @override
    def _on_applied(self, command: LoggedCommand, outcome: Outcome) -> None:
        """Keep the leader's clock in step with what was applied.

        The outcome may be one that was recalled for a retry, and more may have been applied since: what holds is the
        state, not the result.
        """
        if not isinstance(outcome, list) or _LEASE_RESULTS.isdisjoint(map(type, outcome)):
            return
        if not self._leading or not isinstance(command, Writes):
            return
        for each, result in zip(command.commands, outcome, strict=True):
            if isinstance(result, LeaseGrantResult):
                lease = result.id
            elif isinstance(each, LeaseRevoke):
                lease = each.id
            else:
                continue
            ttl_s = self.machine.store.lease_table.ttl_s.get(lease)
            if ttl_s is None:
                self._lessor.on_revoked(lease)
            elif isinstance(result, LeaseGrantResult):
                self._lessor.on_granted(lease, ttl_s, self._now)
