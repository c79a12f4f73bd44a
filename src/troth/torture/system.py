"""The seam between torture and what is tortured.

A system runs somewhere under names of its own; `SystemUnderTest` starts it, hurts it and looks at it, and is called
from one thread (the nemesis's). `TortureClient` uses it as anybody would, and is called from an event loop in another.
Neither says anything of troth, so that etcd, say, needs nothing but these two to be tortured in the same way.
"""

from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Protocol


class Definite(Exception):
    """The operation has not happened and never will."""


class Indefinite(Exception):
    """Nobody knows whether the operation has happened, or will."""


class Power(Enum):
    """What a system can be made to suffer; it says which of these it supports."""

    KILL = "kill"
    PAUSE = "pause"
    PARTITION = "partition"
    DISK = "disk"
    TRANSFER = "transfer"
    MEMBERS = "members"


class TortureClient(Protocol):
    """A client. Keys and values are text; every call ends within the client's own time limit.

    Each method raises `Definite` or `Indefinite` if it does not succeed.
    """

    async def put(self, key: str, value: str) -> None:
        """Write one key."""

    async def get(self, key: str) -> str | None:
        """A linearizable read of one key; None when it is absent."""

    async def swap(self, expected: Mapping[str, str | None], wanted: Mapping[str, str]) -> bool:
        """If every key of *expected* has that value (None: is absent), write all of *wanted*, at one instant."""

    async def read(self, keys: Sequence[str]) -> dict[str, str | None]:
        """Several keys at one instant."""

    async def scan(self, prefix: str) -> dict[str, tuple[str, int]]:
        """All keys that begin with *prefix*: value, and how often each was written since it was created."""

    async def close(self) -> None:
        """End the client."""


class SystemUnderTest(Protocol):
    """A system of several servers. Faults are idempotent: to kill the dead or to resume the running does nothing.

    `heal` must undo every fault whatever state it left, and may raise whatever the system raises if it cannot.
    """

    name: str

    def powers(self) -> frozenset[Power]:
        """What can be done to it here."""

    def start(self) -> None:
        """Start all servers and return when they serve."""

    def stop(self) -> None:
        """End everything and leave nothing behind but the logs."""

    def servers(self) -> tuple[str, ...]:
        """The present members, by name."""

    def leader(self) -> str | None:
        """Who leads, as far as can be said without waiting long."""

    def kill(self, server: str) -> None:
        """End a process at once (SIGKILL)."""

    def restart(self, server: str) -> None:
        """Start a process that has ended, on the data it has. Need not wait until it serves."""

    def pause(self, server: str) -> None:
        """Stop a process without ending it (SIGSTOP)."""

    def resume(self, server: str) -> None:
        """Let it run again."""

    def partition(self, cut: Collection[tuple[str, str]], *, reset: bool) -> None:
        """From now on nothing gets from one to the other, for each pair in *cut*, and everything else does.

        What was cut and is no longer: its connections go on where they stood, or are *reset*.
        """

    def fill_disk(self, server: str) -> None:
        """The server can write nothing more."""

    def free_disk(self, server: str) -> None:
        """There is room again; a server that has stopped for want of it is started."""

    def move_leader(self, server: str) -> None:
        """Ask for the leadership to move to *server*."""

    def add_server(self) -> None:
        """Start one more server and make it a member."""

    def remove_server(self, server: str) -> None:
        """Take a member out and end its process."""

    def heal(self) -> None:
        """Undo every fault: all members run and reach each other."""

    def quiesce(self, within_s: float) -> None:
        """Wait until all members have applied the same.

        Raises:
            Unquiet: they do not get there in time.
        """

    def state_hashes(self) -> dict[str, str]:
        """What stands for the state of each member; equal for equal states."""

    def complaints(self) -> list[str]:
        """What the system says of itself that must not be: a broken invariant, a process that died by itself."""

    async def client(self) -> TortureClient:
        """A new client. Called on the event loop that it is used on."""


class Unquiet(Exception):
    """The system has not come to rest after all faults were undone."""
