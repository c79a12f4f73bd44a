"""Which applied transactions a log has dropped the names of: one bit each.

"No cell" means aborted, so a commit must never be dropped without a trace: a branch that comes back under its name (a
database restored from a backup, or failed over to a replica that had not heard of the commit) would be rolled back, and
with one bit it is reported instead. An aborted transaction has no bit, however old: its branch, which may have waited
in a database that was down for days, is rolled back.
"""

from collections.abc import Mapping

import msgspec

BYTES_MAX = 1 << 20
"""Eight million transactions; of older ones nothing is known, and their branches are reported, never touched."""


class ForgottenState(msgspec.Struct, frozen=True, array_like=True):
    """`Forgotten` as it is written: nothing is known up to `floor`; then epoch -> (first sequence, bits)."""

    floor: tuple[int, int] = (0, 0)
    bits: dict[int, tuple[int, bytes]] = {}


class Forgotten:
    """A set of (epoch, sequence), small because sequences are dense."""

    def __init__(self, state: ForgottenState | None = None, *, bytes_max: int = BYTES_MAX) -> None:
        state = state or ForgottenState()
        self._bytes_max = bytes_max
        self._floor = state.floor
        self._bits: dict[int, tuple[int, bytearray]] = {
            epoch: (first, bytearray(bits)) for epoch, (first, bits) in sorted(state.bits.items())
        }

    def state(self) -> ForgottenState:
        """To be written down."""
        bits: Mapping[int, tuple[int, bytes]] = {e: (first, bytes(b)) for e, (first, b) in self._bits.items()}
        return ForgottenState(self._floor, dict(bits))

    def add(self, epoch: int, sequence: int) -> None:
        if (epoch, sequence) <= self._floor:
            return
        first, bits = self._bits.get(epoch, (sequence & ~7, bytearray()))
        if sequence < first:
            more = (first - (sequence & ~7)) // 8
            first, bits = sequence & ~7, bytearray(more) + bits
        place = sequence - first
        if place // 8 >= len(bits):
            bits.extend(bytes(place // 8 + 1 - len(bits)))
        bits[place // 8] |= 1 << place % 8
        self._bits[epoch] = (first, bits)
        self._bound()

    def _bound(self) -> None:
        while sum(len(bits) for _, bits in self._bits.values()) > self._bytes_max:
            oldest = min(self._bits)
            first, bits = self._bits.pop(oldest)
            drop = len(bits) if len(self._bits) else len(bits) // 2
            self._floor = max(self._floor, (oldest, first + 8 * drop - 1))
            if drop < len(bits):
                self._bits[oldest] = (first + 8 * drop, bits[drop:])

    def may_hold(self, epoch: int, sequence: int) -> bool:
        """Whether (epoch, sequence) was added, or is so old that nothing is known of it."""
        if (epoch, sequence) <= self._floor:
            return True
        first, bits = self._bits.get(epoch, (0, bytearray()))
        place = sequence - first
        return 0 <= place < 8 * len(bits) and bool(bits[place // 8] >> place % 8 & 1)
