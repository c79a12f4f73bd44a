"""What a client of registers gives its callers: replies, views, and errors that say why nobody has answered."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from troth.core.register.attempts import Attempting
from troth.core.register.listing import Listing
from troth.core.register.messages import Accept, Configuration, Described, ReplyMessage, Seat
from troth.core.register.states import Attempt
from troth.core.register.task import Outcome, Send, Task
from troth.errors import OutcomeUnknown, RequestTimeout, TrothError, Unavailable
from troth.ids import NodeId

COMPLAINTS_MAX = 5
COMPLAINT_CHARS_MAX = 240
"""So much is said, in an error, of what connections complain of."""


class RegisterReply(msgspec.Struct, frozen=True, gc=False):
    """A register after a request. `value` is None when it holds nothing; `version` counts its changes since it was
    made. It begins again at 1 when the register was deleted, collected and written anew, so it is no fencing token.

    `changed` says whether this request changed it (exactly once); for `cas`, whether the comparison held.
    """

    value: bytes | None
    version: int
    changed: bool
    decided: bool = False

    @property
    def succeeded(self) -> bool:
        """For `cas`: whether it was done."""
        return self.changed


class Tally:
    """What came of the collections of several keys."""

    def __init__(self) -> None:
        self._removed = 0
        self._error: TrothError | None = None

    def count(self, outcome: Outcome) -> None:
        """One of them has ended."""
        if outcome.error is None:
            self._removed += outcome.tombstone
        self._error = self._error or outcome.error

    def removed(self) -> int:
        """How many tombstones are gone.

        Raises:
            TrothError: the first that was not collected.
        """
        if self._error is not None:
            raise self._error
        return self._removed


class AcceptorView(msgspec.Struct, frozen=True):
    """One acceptor, as `acceptors` shows it. `state` is empty when all is well."""

    acceptor: NodeId
    address: str
    state: str
    epoch: int
    registers: int
    tombstones: int
    bytes: int


def reply_of(outcome: Outcome) -> RegisterReply:
    """What the caller gets.

    Raises:
        TrothError: the request did not succeed.
    """
    if outcome.error is not None:
        raise outcome.error
    return RegisterReply(outcome.value, outcome.version, outcome.changed, outcome.decided)


def explained(error: TrothError, complaints: Sequence[str]) -> TrothError:
    """*error* of a call whose time is over, together with what its connections complain of."""
    if not complaints or type(error) not in (Unavailable, RequestTimeout, OutcomeUnknown):
        return error
    shown = "; ".join(f"{each:.{COMPLAINT_CHARS_MAX}}" for each in complaints[:COMPLAINTS_MAX])
    made = type(error)(f"{error}; {shown}")
    made.__cause__ = error.__cause__
    return made


def told(outcome: Outcome, complaints: Sequence[str], unsent: Sequence[Send] = ()) -> Outcome:
    """*outcome*, its error `explained`. *unsent*: what was ready to leave when the time was over."""
    error = outcome.error
    if error is None:
        return outcome
    if type(error) is Unavailable and any(isinstance(send.request, Accept) for send in unsent):
        error = Unavailable(
            "no time was left to have it accepted: what a change function takes is the call's time"
        )
    return replace(outcome, error=explained(error, complaints))


def listed(listing: Listing, prefix: bytes) -> list[bytes]:
    """The live keys of a finished *listing*."""
    return [key for key in listing.living if key.startswith(prefix)]


def view_of(seat: Seat, config: Configuration, reply: ReplyMessage | None, complaint: str) -> AcceptorView:
    """What an acceptor's answer to `Configure` says of its seat in *config*; *complaint*: why there is no answer."""
    described = reply if isinstance(reply, Described) else None
    if described is not None and described.acceptor != seat.acceptor:
        complaint = f"another acceptor ({described.acceptor:x}) answers there; replace this one"
        described = None
    elif described is not None and described.config and described.config.id.cluster != config.id.cluster:
        complaint = "in another set of registers; take it out there and empty its directory, or replace this one"
    elif described is not None and (described.config is None or described.config.id != config.id):
        complaint = "in another configuration; the next request tells it"
    return AcceptorView(
        acceptor=seat.acceptor,
        address=seat.address,
        state=complaint,
        epoch=config.id.epoch,
        registers=described.registers if described else 0,
        tombstones=described.tombstones if described else 0,
        bytes=described.bytes if described else 0,
    )


def attempts_of(task: Task) -> list[Attempt]:
    """The changes that *task* has sent to acceptors."""
    return task.attempts if isinstance(task, Attempting) else []
