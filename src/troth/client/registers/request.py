"""What the blocking and the asyncio client share: replies, checks of arguments, finding the acceptors, pauses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from urllib.parse import unquote

import msgspec

from troth.client import request as requests
from troth.client.operations import Text, as_bytes
from troth.client.router import check_seconds
from troth.client.url import parse_url
from troth.core.register.attempts import Attempting
from troth.core.register.codec import KEY_BYTES_MAX, VALUE_BYTES_MAX
from troth.core.register.listing import Listing
from troth.core.register.messages import RESERVED, Configuration, Described, ReplyMessage, Seat, founding, group_of
from troth.core.register.states import Attempt
from troth.core.register.task import Outcome, Task
from troth.errors import OutcomeUnknown, RequestTimeout, TrothError, Unavailable, UsageError, WrongCluster
from troth.ids import NodeId

TIMEOUT_S = 5.0
COLLECT_WITHIN_S = 5.0
COLLECT_HOLDS_S = 0.5
"""A change of a key waits no longer for its collection: only where an acceptor falls silent in the middle of it."""

CHANGE_WITHIN_S = 60.0
WITHIN_MAX_S = 1e6
"""Eleven days. "For ever" is spelled as an infinity; a lock does not take that, nor a socket a month."""

STARTED_WITHIN_S = 20.0
"""Acceptors that were just started become a set in no less, whatever a call may take."""

DESCRIBE_SECONDS_MAX = 2.0
COLLECTIONS_MAX = 1024
"""Deleted keys of one client that wait to be collected; beyond it their tombstones stay until `collect` is called."""

COMPLAINTS_MAX = 5
COMPLAINT_CHARS_MAX = 240
"""So much is said, in an error, of what connections complain of."""

PAUSE_S = 0.0005
PAUSE_MAX_S = 0.1
RETRY_FOUNDING_S = 0.02
FOUND_BY_ITSELF = 3
"""So many addresses may become a new set of acceptors without being told to. With fewer, one wiped acceptor would look
like a new set."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Addresses, and the URL's TLS if there is any."""

    addresses: tuple[str, ...]
    url: str = ""


def where(acceptors: str | Sequence[str]) -> Where:
    """Addresses out of what a caller gave: a URL, or a list of ``host:port`` (or ``unix:/path``).

    Raises:
        UsageError: neither, or an address twice.
    """
    if isinstance(acceptors, str) and "://" in acceptors:
        return Where(addresses=_addresses(acceptors), url=acceptors)
    try:
        listed = acceptors.split(",") if isinstance(acceptors, str) else list(acceptors)
    except TypeError:
        listed = []
    if not listed or not all(isinstance(each, str) for each in listed):
        raise UsageError("name the acceptors, for example PaxosClient(['h1:7001', 'h2:7001', 'h3:7001'])")
    return Where(addresses=_addresses("troth://" + ",".join(listed)))


def _addresses(url: str) -> tuple[str, ...]:
    addresses = parse_url(url).addresses
    named = url.partition("://")[2].partition("?")[0].rstrip("/")
    listed = [unquote(each) for each in named.split(",")]
    for address in addresses:
        if listed.count(address) > 1:
            raise UsageError(f"{address} is given twice: name each acceptor once")
    return addresses


def _at_two(one: str, other: str) -> UsageError:
    return UsageError(f"one and the same acceptor answers at {one} and at {other}: name each once")


def as_key(text: Text) -> bytes:
    """A register's name.

    Raises:
        UsageError: empty, too long, or one of the protocol's own.
    """
    key = as_bytes(text)
    if not 0 < len(key) <= KEY_BYTES_MAX or key.startswith(RESERVED):
        raise UsageError(f"a register's key has 1 to {KEY_BYTES_MAX} bytes and does not begin with a zero byte")
    return key


def as_value(text: Text) -> bytes:
    """A register's value.

    Raises:
        UsageError: too large.
    """
    value = as_bytes(text)
    if len(value) > VALUE_BYTES_MAX:
        raise UsageError(f"a register holds up to {VALUE_BYTES_MAX} bytes, not {len(value)}")
    return value


def as_swap(expected: Text | None, value: Text | None) -> tuple[bytes | None, bytes | None]:
    """What a comparison expects, and what is written if it holds.

    Raises:
        UsageError: nothing and nothing; or one is too large.
    """
    if expected is None and value is None:
        raise UsageError("a cas that expects nothing and writes nothing would change nothing: use get")
    return None if expected is None else as_value(expected), None if value is None else as_value(value)


def as_function(function: Callable[[bytes | None], Text | None]) -> Callable[[bytes | None], bytes | None]:
    """*function*, its answer made bytes (None: the register is deleted)."""

    def wrapped(held: bytes | None) -> bytes | None:
        wanted = function(held)
        return None if wanted is None else as_value(wanted)

    return wrapped


def seconds(within_s: float) -> float:
    """How long a call may take: no longer than a thread can wait, whatever is asked for.

    Raises:
        UsageError: no number above 0.
    """
    check_seconds(within_s)
    return min(within_s, WITHIN_MAX_S)


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


def told(outcome: Outcome, complaints: Sequence[str]) -> Outcome:
    """*outcome*, its error `explained`."""
    return outcome if outcome.error is None else replace(outcome, error=explained(outcome.error, complaints))


def pause_s(tries: int, chance: float) -> float:
    """How long a proposer that was refused stays out of the way, the *tries*-th time; *chance* in [0, 1) is the jitter.

    From nothing to all of it, since proposers that duel must come back at different moments.
    """
    longest = min(PAUSE_MAX_S, PAUSE_S * 2.0 ** min(tries, 10))
    return longest * chance


def new_client() -> int:
    """The id of a proposer, which nobody has had."""
    return requests.draw_bits(63) | 1


class Finding:
    """Makes out of what acceptors say about themselves the configuration to begin with."""

    def __init__(self, addresses: Sequence[str], *, prepare: int, accept: int, found: bool | None) -> None:
        self.config: Configuration | None = None
        self.addresses: dict[NodeId, str] = {}
        """Under which of the addresses given each acceptor answered."""
        self._seated_at: dict[NodeId, str] = {}
        """What the configuration called its address then."""
        self._given = tuple(addresses)
        self._sizes = (prepare, accept)
        self._may_found = len(self._given) >= FOUND_BY_ITSELF if found is None else found
        self.founded = False
        """Whether the acceptors were to become the set that they are."""
        self._mixed: WrongCluster | None = None
        self._blank: dict[str, NodeId] = {}
        self._answered: dict[str, Described] = {}
        self._may_found_late = found is True
        self._late: list[str] = []
        """Blank ones of servers that joined a running cluster."""

    @property
    def is_enough(self) -> bool:
        """Whether nothing more need be heard: most of the addresses belong to one set, which is that of everybody who
        is given the same addresses, or there are two."""
        of_a_set = sum(described.config is not None for described in self._answered.values())
        return self._mixed is not None or 2 * of_a_set > len(self._given)

    def on_described(self, address: str, described: Described) -> None:
        """An acceptor has answered at *address*; also called for those that answer when the set has been found. One of
        another set does no harm by then: who has mistyped an address that is to join, or has used an acceptor's
        address for another one, goes on with the quorum that there is."""
        self.addresses[described.acceptor] = address
        self._answered[address] = described
        theirs = described.config
        if theirs is None:
            self._blank[address] = described.acceptor
            if described.came_late:
                self._late.append(address)
            return
        mine = self.config
        if mine is not None and mine.id.cluster != theirs.id.cluster:
            self._mixed = WrongCluster(
                f"{self._those_of(mine)} to one set ({mine.describe()}), {self._those_of(theirs)} to another "
                f"({theirs.describe()}): check the addresses. If they are to be one set, as when two first clients "
                "have founded both at once: empty the data directories of the acceptors of one set, start them again, "
                "and put them into the other (`troth paxos acceptors set`). Where that does not work either, since "
                "neither has a quorum, nothing was ever written: empty those of all, and found one set anew (`troth "
                "paxos acceptors found`)"
            )
        elif mine is None or theirs.id.epoch > mine.id.epoch:
            self.config = theirs

    def _those_of(self, config: Configuration) -> str:
        """The addresses at which acceptors of the set of *config* have answered."""
        found = [
            address
            for address, each in self._answered.items()
            if each.config is not None and each.config.id.cluster == config.id.cluster
        ]
        return f"the acceptor{'s' * (len(found) > 1)} at {', '.join(found)} belong{'s' * (len(found) == 1)}"

    def settled(self) -> Configuration | None:
        """The configuration of the acceptors that have answered; None while none is known.

        Raises:
            UsageError: it is not what the caller asks for: other quorums, or one acceptor under two addresses.
            WrongCluster: some belong to another set.
        """
        self._check_each_once()
        if self._mixed is not None:
            raise self._mixed
        if self.config is None:
            return None
        group = self.config.groups[-1]
        for name, asked, has in zip(
            ("prepare", "accept"), self._sizes, (group.prepare, group.accept), strict=True
        ):
            if asked not in (0, has):
                raise UsageError(
                    f"these acceptors are a set already, with {name}={has}, not {name}={asked} ("
                    f"{self.config.describe()}): `set_acceptors` (`troth paxos acceptors set`) changes that"
                )
        return self.config

    def _check_each_once(self) -> None:
        for one, other in combinations(self._answered, 2):
            if self._answered[one].acceptor == self._answered[other].acceptor:
                raise _at_two(one, other)

    def address_of(self, acceptor: NodeId, config: Configuration) -> str | None:
        """Where the caller's addresses say that *acceptor* is, unless a newer configuration has moved it; None: they do
        not say."""
        known, seat = self.addresses.get(acceptor), config.seat_of(acceptor)
        if known is None or seat is None or self._seated_at.setdefault(acceptor, seat.address) == seat.address:
            return known
        return seat.address

    def to_found(self) -> Configuration | None:
        """What all acceptors, being blank, are to be made of; None while that can not be said.

        Raises:
            UsageError: founding was not allowed, or the quorums need not meet.
        """
        if self.config is not None or len(self._blank) < len(self._given):
            return None
        if not self._may_found:
            raise UsageError(
                f"the acceptors at {', '.join(self._given)} belong to no set yet; fewer than {FOUND_BY_ITSELF} become "
                "one only when told to, with found=True (`troth paxos acceptors found`)"
            )
        if self._late and not self._may_found_late:
            raise UsageError(
                f"the acceptors at {', '.join(self._given)} belong to no set, and {', '.join(self._late)} came later"
                " than their cluster: if servers before them had registers, put those acceptors back and exchange them"
                " (`troth paxos acceptors set`); if there never were any, found a new set with found=True"
                " (`troth paxos acceptors found`)"
            )
        seats = tuple(Seat(node, address) for address, node in self._blank.items())
        prepare, accept = self._sizes
        config = founding(group_of(seats, prepare=prepare, accept=accept))
        self.founded = True
        return config

    def unavailable(self) -> Unavailable:
        """Why there is no configuration when the time is over."""
        silent = [address for address in self._given if address not in self.addresses.values()]
        if self._blank:
            return Unavailable(
                f"these acceptors belong to no set yet, and {', '.join(silent)} does not answer: all must be up the "
                "first time (an acceptor whose directory was emptied is a new one; see `troth paxos acceptors`)"
            )
        return Unavailable(f"no acceptor answers at {', '.join(self._given)}: are they running?")


def listed(listing: Listing, prefix: bytes) -> list[bytes]:
    """The live keys of a finished *listing*."""
    return [key for key in listing.living if key.startswith(prefix)]


def view_of(seat: Seat, config: Configuration, reply: ReplyMessage | None, complaint: str) -> AcceptorView:
    """What an acceptor's answer to `Describe` says of its seat in *config*; *complaint*: why there is no answer."""
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


def give_seat(seats: dict[NodeId, str], address: str, described: Described, config: Configuration) -> None:
    """Let the acceptor at *address* have one of the *seats* of the set after *config*.

    Raises:
        UsageError: it has one, under another address.
        WrongCluster: it belongs to another set.
    """
    if described.acceptor in seats:
        raise _at_two(seats[described.acceptor], address)
    theirs = described.config
    if theirs is not None and theirs.id.cluster != config.id.cluster:
        raise WrongCluster(
            f"the acceptor at {address} belongs to another set ({theirs.describe()}): take it out there and empty its "
            "directory first, or name another one"
        )
    seats[described.acceptor] = address


def attempts_of(task: Task) -> list[Attempt]:
    """The changes that *task* has sent to acceptors."""
    return task.attempts if isinstance(task, Attempting) else []
