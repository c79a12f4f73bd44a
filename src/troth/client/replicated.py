"""Replicated objects: every holder of an object applies the same calls in the same order.

::

    @troth.replicated
    class Counter:
        def __init__(self) -> None:
            self.n = 0

        @troth.command
        def add(self, by: int) -> int:
            self.n += by
            return self.n

    counter = Counter.on(client, "counters/a")
    counter.add(2)                        # applied on all replicas; the value is this replica's
    counter.read(lambda c: c.n)           # linearizable
    counter.read(lambda c: c.n, level=troth.eventual)   # as it stands here, at once

For type checkers derive from `Replicated` instead of decorating the class. On a method ``@troth.replicated`` means
the same as ``@troth.command``, as users of PySyncObj know it.

How it works. Under the object's name lie ordinary keys::

    NAME/head                  msgpack [epoch, class name]; written anew with every call
    NAME/calls/EPOCH/CALLER.N  msgpack [method, args, kwargs]; one key for each call
    NAME/state                 msgpack [epoch, revision, state]: the state before the calls of that epoch

A call is a transaction: if the head still names the caller's epoch, write the call and the head. The store's
revisions are the order of calls. Every holder watches the name and applies what it sees in that order; the caller's
value (or exception) is that of its own application. The client's session makes a retried call happen once.

A linearizable read asks for the head, which names the last call, and waits until that is applied here.

Trimming. After every `SNAPSHOT_EVERY` calls the holder that made the last of them begins a new epoch: it writes the
head only. At that point of the order it notes the state, and writes it together with the deletion of all calls of
earlier epochs. Callers that were not aware of the new epoch are refused by their transaction's condition and
try again. Nothing has to stand still, and a holder that dies halfway leaves nothing wrong behind.

Methods must be deterministic: no clock, no chance, no reading of anything but the object and the arguments. One that
raises undoes nothing: what it had changed before stays changed, on every replica, so check first and change then.
Arguments and the state are plain data (None, bool, int, float, str, bytes, list, dict; tuples among arguments arrive
as lists), never pickles. A class with other attributes defines ``to_state(self)`` and ``from_state(cls, state)``.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar, overload

from troth.client.aio import AsyncClient
from troth.client.background import ClosingTwin
from troth.client.calls import MARK, commands_of
from troth.client.replica import Replica
from troth.client.sync import Client
from troth.errors import UsageError
from troth.models import ReadLevel, linearizable

T = TypeVar("T")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


def command(method: F) -> F:
    """Mark a method that changes the object: it is called on every replica, in the same order."""
    setattr(method, MARK, True)
    return method


class Replicated:
    """Base of classes whose instances can be replicated. An instance made directly is just a local object."""

    @overload
    @classmethod
    def on(cls, client: Client, name: str) -> Self: ...
    @overload
    @classmethod
    def on(cls, client: AsyncClient, name: str) -> "Coroutine[Any, Any, Replica[Self]]": ...
    @classmethod
    def on(cls, client: Client | AsyncClient, name: str) -> Any:
        """The object called *name*, as held by this process: call its commands, `read` it.

        With an asyncio client this is awaited, and gives a `Replica`, whose commands are awaited too.

        Raises:
            UsageError: the class marks no command, its state is not plain data, or *name* is of another class.
        """
        return _hold(cls, client, name)

    def read(self, function: Callable[[Self], R], *, level: ReadLevel = linearizable) -> R:
        """``function(object)``, evaluated on a state as new as *level* says. Return copies; change nothing."""
        del level  # a local object has one state only
        return function(self)

    def close(self) -> None:
        """Stop following the object. Nothing to do for a local one."""


@overload
def replicated(marked: type[T]) -> type[T]: ...
@overload
def replicated(marked: F) -> F: ...
def replicated(marked: Any) -> Any:
    """Decorator of a class, which gets an ``on(client, name)`` as `Replicated` has it; or of a method, as `command`.

    Raises:
        UsageError: the class marks no command, or what is marked is neither.
    """
    if not isinstance(marked, type):
        if not callable(marked):
            raise UsageError(f"{marked!r:.80}: @troth.replicated stands above a class, or above a method of one")
        return command(marked)
    commands_of(marked)
    marked.on = classmethod(_hold)  # type: ignore[attr-defined]
    return marked


def _hold(kind: type[Any], client: Client | AsyncClient, name: str) -> Any:
    if isinstance(client, AsyncClient):
        return Replica.open(client, kind, name)
    background = client.background
    replica = background.run(Replica.open, client.aio, kind, name)
    return _Handle(replica, background)


class _Handle(ClosingTwin["Replica[Any]"]):
    """A `Replica` for callers that block; what `Replicated.on` gives with a synchronous client."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name in ("aio", "background"):
            raise AttributeError(name)  # a copy that is being made has none yet
        call = getattr(self.aio, name)

        def blocking(*args: Any, **kwargs: Any) -> Any:
            return self.background.run(call, *args, **kwargs)

        return blocking

    @property
    def applied_revision(self) -> int:
        """Everything up to this revision has been applied to the object here."""
        return self.aio.applied_revision

    def read(self, function: Callable[[Any], R], *, level: ReadLevel = linearizable) -> R:
        """``function(object)``; it runs in the client's thread, so it must not block."""
        return self.background.run(self.aio.read, function, level=level)
