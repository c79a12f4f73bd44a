"""A disk that does to a server's files what real ones do when the power fails, only more often.

`SimulatedDisk` is a `ports.FileSystem` in memory. It keeps what the process sees (the page cache) apart from
what is on the platter, and knows for each sector which writes since the last sync could have reached it:

- `crash` (the process dies, the machine lives): the page cache stays as it is; open files become invalid.
- `power_loss`: per file, every sector (512 bytes) independently ends at one of the states it had since the last sync;
  so writes are lost, torn and reordered. A file's length ends at one of its lengths. Creations, renames and removals
  since the last `sync_directory` happened or not, each for itself.
- a sync that fails drops what it should have written from the queue, as Linux does: the page cache still shows it,
  the next sync "succeeds", and only a power loss tells that it was never there.
- `rot` flips a bit in what is durable; reads can fail (EIO); the disk can be full (ENOSPC), also in mid-write.

No clock, and all chance comes from the `Rng` handed in: the same calls give the same disk.
"""

import errno
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from troth.ports import Rng

SECTOR_BYTES = 512

_ZEROS = bytes(8 * SECTOR_BYTES)


@dataclass(slots=True, kw_only=True)
class DiskFaults:
    """What goes wrong by itself, as chances per call (0.0 .. 1.0). One-shot faults are methods of the disk."""

    sync_fails: float = 0.0
    read_fails: float = 0.0
    write_fails: float = 0.0


@dataclass(slots=True)
class _Inode:
    """One file's bytes. `versions` maps a sector to the states it has had since the last sync, oldest first."""

    seen: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    versions: dict[int, list[bytes]] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if end > len(self.seen):
            if offset > len(self.seen):
                self.seen.extend(bytes(offset - len(self.seen)))
            self.lengths.append(end)
        self.seen[offset:end] = data
        zeros = len(data)
        while zeros >= len(_ZEROS) and data.endswith(_ZEROS, 0, zeros):
            zeros -= len(_ZEROS)
        self._note(offset, offset + zeros, end)

    def truncate(self, size: int) -> None:
        was = len(self.seen)
        if size < was:
            del self.seen[size:]
        else:
            self.seen.extend(bytes(size - was))
        self.lengths.append(size)
        self._note(min(size, was), was, max(size, was))

    def sync(self) -> None:
        self._reach(len(self.seen), list(self.versions))
        self._drop_pending()

    def fail_sync(self, rng: Rng) -> None:
        """Some sectors reach the platter, and those that do not are forgotten: the page cache calls them clean."""
        self._reach(len(self.durable), [sector for sector in sorted(self.versions) if rng.randrange(0, 2)])
        self._drop_pending()

    def _reach(self, length: int, sectors: list[int]) -> None:
        """The platter gets *sectors* of what is seen, of a file that is *length* bytes long there."""
        del self.durable[length:]
        self.durable.extend(bytes(length - len(self.durable)))
        for sector in sectors:
            lo = sector * SECTOR_BYTES
            hi = min(length, lo + SECTOR_BYTES)
            if lo < hi:
                self.durable[lo:hi] = self.seen[lo:hi].ljust(hi - lo, b"\0")

    def _drop_pending(self) -> None:
        self.versions.clear()
        self.lengths.clear()

    def power_loss(self, rng: Rng) -> int:
        """Choose an outcome. Returns how many sectors lost a write."""
        lost = 0
        length = len(self.durable)
        if self.lengths:
            length = [length, *self.lengths][_pick(rng, len(self.lengths) + 1)]
        after = bytearray(self.durable[:length])
        after.extend(bytes(length - len(after)))
        # Mostly independent sectors; sometimes all or nothing, which independent choices would hardly ever give.
        style = rng.randrange(0, 3) if len(self.versions) > 1 else 2
        for sector in sorted(self.versions):
            states = self.versions[sector]
            if style == 0:
                kept = 0
            elif style == 1:
                kept = len(states)
            else:
                kept = _pick(rng, len(states) + 1)
            lost += kept < len(states)
            if kept:
                lo = sector * SECTOR_BYTES
                state = states[kept - 1][: max(0, length - lo)]
                after[lo : lo + len(state)] = state
        self.durable = after
        self.seen = bytearray(after)
        self._drop_pending()
        return lost

    def _note(self, lo: int, zeros: int, hi: int) -> None:
        """Bytes of ``[lo, hi)`` have been written, those from *zeros* on as zeros."""
        end = (hi + SECTOR_BYTES - 1) // SECTOR_BYTES
        # Behind what is durable there are zeros already: of these sectors only those with other states before count.
        blank = (max(zeros, len(self.durable)) + SECTOR_BYTES - 1) // SECTOR_BYTES
        sectors = [*range(lo // SECTOR_BYTES, min(end, blank))]
        if blank < end:
            sectors += sorted(sector for sector in self.versions if max(blank, lo // SECTOR_BYTES) <= sector < end)
        for sector in sectors:
            start = sector * SECTOR_BYTES
            state = _sector(self.seen, start)
            states = self.versions.get(sector)
            # A write that changes nothing can not be lost.
            if states is None:
                if state != _sector(self.durable, start):
                    self.versions[sector] = [state]
            elif state != states[-1]:
                states.append(state)


def _sector(content: bytearray, start: int) -> bytes:
    return bytes(content[start : start + SECTOR_BYTES]).ljust(SECTOR_BYTES, b"\0")


def _pick(rng: Rng, count: int) -> int:
    return rng.randrange(0, count)


class SimulatedFile:
    """`ports.File` on a `SimulatedDisk`."""

    def __init__(self, disk: "SimulatedDisk", name: str, inode: _Inode) -> None:
        self._disk = disk
        self._name = name
        self._inode = inode
        self._boot = disk.boot
        self._open = True

    def read_at(self, offset: int, size: int) -> bytes:
        self._check()
        self._disk.maybe_fail_read(self._name)
        return bytes(self._inode.seen[offset : offset + size])

    def write_at(self, offset: int, data: bytes) -> None:
        self._check()
        room = self._disk.room_for(self._name, len(self._inode.seen), offset + len(data))
        if room < offset + len(data):
            self._inode.write(offset, data[: max(0, room - offset)])
            raise OSError(errno.ENOSPC, "No space left on device (simulated)", self._name)
        self._inode.write(offset, data)

    def sync(self) -> None:
        self._check()
        if self._disk.maybe_fail_sync():
            self._disk.fail_sync(self._inode)
            raise OSError(errno.EIO, "Input/output error in fsync (simulated)", self._name)
        self._inode.sync()

    def size(self) -> int:
        self._check()
        return len(self._inode.seen)

    def truncate(self, size: int) -> None:
        self._check()
        self._inode.truncate(size)

    def close(self) -> None:
        self._open = False

    def _check(self) -> None:
        if not self._open or self._boot != self._disk.boot:
            raise OSError(errno.EBADF, "Bad file descriptor (simulated)", self._name)


_NameChanges: TypeAlias = tuple[tuple[str, _Inode | None], ...]
"""What names mean from now on (None: nothing); all of it happens or none."""


class SimulatedDisk:
    """`ports.FileSystem` in memory, with faults. `fired` counts each fault that really happened."""

    def __init__(self, rng: Rng, *, faults: DiskFaults | None = None, capacity_bytes: int | None = None) -> None:
        self.faults = faults or DiskFaults()
        self.capacity_bytes = capacity_bytes
        self.fired: Counter[str] = Counter()
        self.boot = 0
        self._rng = rng
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._name_changes: list[_NameChanges] = []
        self._sync_fails_in: int | None = None
        self._read_fails_in: dict[str, int] = {}

    # The file system.

    def names(self) -> list[str]:
        return sorted(self._names)

    def open(self, name: str) -> SimulatedFile:
        return SimulatedFile(self, name, self._lookup(name))

    def create(self, name: str, reserve: int = 0) -> SimulatedFile:
        inode = self._names.get(name)
        if inode is None:
            inode = _Inode()
            self._rename({name: inode})
        else:
            inode.truncate(0)
        if reserve:
            if self.room_for(name, len(inode.seen), reserve) < reserve:
                raise OSError(errno.ENOSPC, "No space left on device (simulated)", name)
            inode.truncate(reserve)
        return SimulatedFile(self, name, inode)

    def rename(self, old: str, new: str) -> None:
        self._rename({new: self._lookup(old), old: None})

    def remove(self, name: str) -> None:
        self._lookup(name)
        self._rename({name: None})

    def sync_directory(self) -> None:
        if self.maybe_fail_sync():
            self._name_changes.clear()
            raise OSError(errno.EIO, "Input/output error in fsync of the directory (simulated)")
        self._durable_names = dict(self._names)
        self._name_changes.clear()

    # What happens to it.

    def fork(self, rng: Rng) -> "SimulatedDisk":
        """A disk of its own in the same state (open files are not part of it), to try several fates of one moment."""
        other = SimulatedDisk(rng, faults=replace(self.faults), capacity_bytes=self.capacity_bytes)
        known: dict[int, _Inode] = {}

        def twin(inode: _Inode) -> _Inode:
            if id(inode) not in known:
                versions = {sector: list(states) for sector, states in inode.versions.items()}
                known[id(inode)] = _Inode(
                    bytearray(inode.seen), bytearray(inode.durable), versions, list(inode.lengths)
                )
            return known[id(inode)]

        other._names = {name: twin(inode) for name, inode in self._names.items()}
        other._durable_names = {name: twin(inode) for name, inode in self._durable_names.items()}
        other._name_changes = [
            tuple((name, None if inode is None else twin(inode)) for name, inode in change)
            for change in self._name_changes
        ]
        return other

    def crash(self) -> None:
        """The process dies; the machine and its page cache live on."""
        self.boot += 1

    def power_loss(self) -> None:
        """The machine dies; what was not synced may be there or not (see the module)."""
        self.boot += 1
        self.fired["power_loss"] += 1
        after = dict(self._durable_names)
        for change in self._name_changes:
            if self._rng.randrange(0, 2):
                for name, inode in change:
                    if inode is None:
                        after.pop(name, None)
                    else:
                        after[name] = inode
            else:
                self.fired["name_change_lost"] += 1
        self._name_changes.clear()
        self._durable_names = after
        self._names = dict(after)
        lost = 0
        for name in sorted(after):
            lost += after[name].power_loss(self._rng)
        self.fired["sector_write_lost"] += lost

    def fail_next_sync(self, *, skip: int = 0) -> None:
        """The next sync (after *skip* good ones) fails, and what it should have written is dropped, or most of it."""
        self._sync_fails_in = skip

    @property
    def is_about_to_fail(self) -> bool:
        """Whether `fail_next_sync` or `fail_next_read` has been asked for, and has not happened yet."""
        return self._sync_fails_in is not None or bool(self._read_fails_in)

    def fail_next_read(self, name: str, *, skip: int = 0) -> None:
        """The next read of *name* (after *skip* good ones) fails with EIO."""
        self._read_fails_in[name] = skip

    def heal(self) -> None:
        """Forget the one-shot faults that have not fired, and fail no more by chance."""
        self.faults = DiskFaults()
        self._sync_fails_in = None
        self._read_fails_in.clear()

    def rot(self, name: str, offset: int, bit: int = 0) -> None:
        """Flip one bit of a durable byte."""
        inode = self._lookup(name)
        inode.durable[offset] ^= 1 << bit
        inode.seen[offset] ^= 1 << bit
        self.fired["rot"] += 1

    def rot_somewhere(self) -> tuple[str, int] | None:
        """Flip one bit in a file chosen by chance, in a byte that is not zero. Returns where, if there is one."""
        names = [name for name in sorted(self._names) if any(self._names[name].durable)]
        if not names:
            return None
        name = self._rng.choice(names)
        durable = self._names[name].durable
        offset = self._rng.choice([place for place, byte in enumerate(durable) if byte])
        self.rot(name, offset, self._rng.randrange(0, 8))
        return name, offset

    def content(self, name: str) -> bytes:
        """What the process sees in *name*."""
        return bytes(self._lookup(name).seen)

    def used_bytes(self) -> int:
        return sum(len(inode.seen) for inode in self._names.values())

    # Called by its files.

    def maybe_fail_sync(self) -> bool:
        fails = False
        if self._sync_fails_in is not None:
            fails = self._sync_fails_in == 0
            self._sync_fails_in = None if fails else self._sync_fails_in - 1
        elif self.faults.sync_fails:
            fails = self._rng.random() < self.faults.sync_fails
        self.fired["sync_failed"] += fails
        return fails

    def fail_sync(self, inode: _Inode) -> None:
        inode.fail_sync(self._rng)

    def maybe_fail_read(self, name: str) -> None:
        fails = False
        if name in self._read_fails_in:
            skip = self._read_fails_in.pop(name)
            fails = skip == 0
            if not fails:
                self._read_fails_in[name] = skip - 1
        elif self.faults.read_fails:
            fails = self._rng.random() < self.faults.read_fails
        if fails:
            self.fired["read_failed"] += 1
            raise OSError(errno.EIO, "Input/output error in read (simulated)", name)

    def room_for(self, name: str, have: int, wanted: int) -> int:
        """Up to which length the file *name* of *have* bytes may grow, at most *wanted*."""
        if self.faults.write_fails and self._rng.random() < self.faults.write_fails:
            self.fired["no_space"] += 1
            return self._rng.randrange(0, wanted)
        if self.capacity_bytes is None or wanted <= have:
            return wanted
        room = have + self.capacity_bytes - self.used_bytes()
        if room < wanted:
            self.fired["no_space"] += 1
        return min(wanted, room)

    def _lookup(self, name: str) -> _Inode:
        if name not in self._names:
            raise FileNotFoundError(errno.ENOENT, "No such file (simulated)", name)
        return self._names[name]

    def _rename(self, changes: dict[str, _Inode | None]) -> None:
        for name, inode in changes.items():
            if inode is None:
                del self._names[name]
            else:
                self._names[name] = inode
        self._name_changes.append(tuple(changes.items()))
