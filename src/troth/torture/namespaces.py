"""A network of the kernel's own for the servers under test: a namespace for each, on one switch. Needs root.

::

    [ns of n1]--veth--+
    [ns of n2]--veth--+--[bridge 10.X.Y.254/24]-- clients, in the namespace that we run in
    [ns of n3]--veth--+

Whoever is cut off from another gets a wrong hardware address for it: the kernel sends its packets to nobody, one
direction at a time, and nobody is told. That is what a network does that loses packets: connections stand still, are
tried again by TCP with growing pauses, and new ones are not answered. (A proxy, proxy.py, can only hold bytes.)

The bridge is connected to nothing else, so what servers say in plain text does not leave the machine.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Collection, Iterator
from pathlib import Path

from troth.errors import UsageError

CLONE_NEWNET = 0x4000_0000
NOBODY = "02:00:00:00:00:fe"
_NAMESPACES = Path("/run/netns")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(
            f"ip {' '.join(arguments)}: {done.stderr.strip()}; network namespaces need root and iproute2, leave them"
            " out and a proxy is used"
        )


class Namespaces:
    """One switch, and a namespace for each server; implements `torture.links.Links`."""

    def __init__(self) -> None:
        number = os.getpid() % 62_000
        self._tag = f"trt{number}"
        self._subnet = f"10.{208 + number // 250 % 40}.{number % 250}"
        self._numbers: dict[str, int] = {}
        self._next = 1
        self._cut: frozenset[tuple[str, str]] = frozenset()
        self._open = False

    @staticmethod
    def possible() -> bool:
        """Whether this process may make such a network."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            return False
        name = f"trtest{os.getpid()}"
        try:
            _ip("netns", "add", name)
        except UsageError:
            return False
        with contextlib.suppress(UsageError):
            _ip("netns", "del", name)
        return True

    # ---- servers ----------------------------------------------------------------------------------------

    def address(self, name: str) -> str:
        """The IP address of the server called *name*; made when it is first asked for."""
        if name not in self._numbers:
            self._make(name)
        return f"{self._subnet}.{self._numbers[name]}"

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """What this thread starts within the block lives in the namespace of *name*."""
        libc = ctypes.CDLL(None, use_errno=True)
        with (
            Path("/proc/thread-self/ns/net").open("rb") as ours,
            (_NAMESPACES / self._name(name)).open("rb") as its,
        ):
            self._enter(libc, its.fileno())
            try:
                yield
            finally:
                self._enter(libc, ours.fileno())

    @staticmethod
    def _enter(libc: ctypes.CDLL, descriptor: int) -> None:
        if libc.setns(descriptor, CLONE_NEWNET):
            raise UsageError(f"a network namespace can not be entered: {os.strerror(ctypes.get_errno())}")

    # ---- the network -------------------------------------------------------------------------------------

    def front(self, name: str) -> None:
        """Nothing stands in front of a server here."""

    def down(self, name: str) -> None:
        """The server's process has ended; its kernel says so to whoever dials."""

    def up(self, name: str) -> None:
        """It runs again."""

    def remove(self, name: str) -> None:
        """The server is no more."""
        if self._numbers.pop(name, None) is not None:
            with contextlib.suppress(UsageError):
                _ip("netns", "del", self._name(name))

    def cut(self, pairs: Collection[tuple[str, str]], *, reset: bool) -> None:
        """From now on nothing gets from one to the other of each of *pairs*. Connections are never *reset* here."""
        del reset
        wanted = frozenset(pairs)
        for sender, receiver in sorted(self._cut ^ wanted):
            if sender not in self._numbers or receiver not in self._numbers:
                continue
            where = ("-n", self._name(sender), "neigh")
            address = self.address(receiver)
            if (sender, receiver) in wanted:
                _ip(*where, "replace", address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")
            else:
                with contextlib.suppress(UsageError):
                    _ip(*where, "del", address, "dev", "eth0")
        self._cut = wanted

    def close(self) -> None:
        """Take everything down."""
        for name in list(self._numbers):
            self.remove(name)
        if self._open:
            self._open = False
            with contextlib.suppress(UsageError):
                _ip("link", "del", self._tag)

    def _name(self, server: str) -> str:
        return f"{self._tag}-{server}"

    def _make(self, server: str) -> None:
        if not self._open:
            _ip("link", "add", self._tag, "type", "bridge")
            self._open = True
            _ip("addr", "add", f"{self._subnet}.254/24", "dev", self._tag)
            _ip("link", "set", self._tag, "up")
        number, self._next = self._next, self._next + 1
        name, outside = self._name(server), f"{self._tag}v{number}"
        _ip("netns", "add", name)
        self._numbers[server] = number
        _ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", outside, "master", self._tag, "up")
        _ip("-n", name, "addr", "add", f"{self._subnet}.{number}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "link", "set", "eth0", "up")
