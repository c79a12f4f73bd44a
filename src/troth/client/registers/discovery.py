"""How a client of registers begins: an id for its proposer, and a set of acceptors, found or founded."""

from collections.abc import Sequence
from itertools import combinations

from troth.client import request as requests
from troth.core.register.messages import Configuration, Described, Seat, check_sizes, founding, group_of
from troth.errors import Unavailable, UsageError, WrongCluster
from troth.ids import NodeId

FOUND_BY_ITSELF = 3
"""So many addresses may become a new set of acceptors without being told to. With fewer, one wiped acceptor would look
like a new set."""


def _at_two(one: str, other: str) -> UsageError:
    return UsageError(f"one and the same acceptor answers at {one} and at {other}: name each once")


def new_client() -> int:
    """The id of a proposer, which nobody has had."""
    return requests.draw_bits(63) | 1


class Discovery:
    """Makes out of what acceptors say about themselves the configuration to begin with."""

    def __init__(self, addresses: Sequence[str], *, prepare: int, accept: int, found: bool | None) -> None:
        """
        Raises:
            UsageError: the sizes of quorums are no numbers.
        """
        check_sizes(prepare=prepare, accept=accept)
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
        self._late: dict[str, None] = {}
        """Blank ones of servers that joined a running cluster."""

    @property
    def is_enough(self) -> bool:
        """Whether nothing more need be heard: most of the addresses belong to one set, which is that of everybody who
        is given the same addresses, or there are two."""
        of_a_set = sum(described.config is not None for described in list(self._answered.values()))
        return self._mixed is not None or 2 * of_a_set > len(self._given)

    def on_described(self, address: str, described: Described) -> None:
        """An acceptor has answered at *address*; also called for those that answer when the set has been found. Once it
        is, an acceptor of another set is ignored: a caller who mistyped one address goes on with the quorum."""
        self.addresses[described.acceptor] = address
        self._answered[address] = described
        theirs = described.config
        if theirs is None:
            self._blank[address] = described.acceptor
            if described.came_late:
                self._late[address] = None
            return
        for former in (self._blank, self._late):
            former.pop(address, None)
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

    def to_establish(self) -> Configuration | None:
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
