"""Faults that can be put together, and the schedule of them that a seed stands for.

The schedule is fixed before the run: which nemesis, when, for how long, and a number with which it picks its victims
among the members that there are then. Whether the victim is the same server in a second run depends on who leads by
then, as it must when the leader is what is aimed at; everything else repeats.
"""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from troth.errors import UsageError
from troth.torture.system import Power, SystemUnderTest

QUIET_AT_FIRST_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of a schedule. `pick` is in [0, 1) and stands for all its choices."""

    nemesis: str
    begin_s: float
    end_s: float
    pick: float

    def describe(self) -> str:
        """One line."""
        return f"{self.begin_s:7.1f} s to {self.end_s:.1f} s  {self.nemesis}"


@dataclass(slots=True)
class Inflicted:
    """What a nemesis has done, so that it can be undone."""

    victims: tuple[str, ...]
    words: str


class Nemesis(ABC):
    """One kind of fault. Subclasses say what it needs, how it begins and how it ends."""

    name: str
    powers: frozenset[Power]
    weight: int = 2
    seconds: tuple[float, float] = (0.5, 5.0)

    @abstractmethod
    def begin(self, system: SystemUnderTest, rng: random.Random) -> Inflicted:
        """Do it."""

    @abstractmethod
    def end(self, system: SystemUnderTest, inflicted: Inflicted, rng: random.Random) -> None:
        """Undo it."""


def _victim(system: SystemUnderTest, rng: random.Random) -> str:
    """The leader more often than its share: that is where it hurts."""
    servers = system.servers()
    leader = system.leader() if rng.random() < 0.4 else None
    return leader if leader in servers and leader is not None else rng.choice(servers)


class Kill(Nemesis):
    """SIGKILL; the process is started again at the end."""

    name = "kill"
    powers = frozenset({Power.KILL})
    weight = 4

    @override
    def begin(self, system: SystemUnderTest, rng: random.Random) -> Inflicted:
        victim = _victim(system, rng)
        system.kill(victim)
        return Inflicted((victim,), victim)

    @override
    def end(self, system: SystemUnderTest, inflicted: Inflicted, rng: random.Random) -> None:
        for victim in inflicted.victims:
            system.restart(victim)


class KillMajority(Kill):
    """SIGKILL for more than half of them at once."""

    name = "kill-majority"
    weight = 1
    seconds = (0.2, 2.5)

    @override
    def begin(self, system: SystemUnderTest, rng: random.Random) -> Inflicted:
        servers = system.servers()
        victims = tuple(rng.sample(servers, len(servers) // 2 + 1))
        for victim in victims:
            system.kill(victim)
        return Inflicted(victims, " ".join(victims))


class RestartAll(Kill):
    """SIGKILL for everybody, then a start of everybody."""

    name = "restart-all"
    weight = 1
    seconds = (0.1, 1.0)

    @override
    def begin(self, system: SystemUnderTest, rng: random.Random) -> Inflicted:
        victims = system.servers()
        for victim in victims:
            system.kill(victim)
        return Inflicted(victims, "all")


class Pause(Nemesis):
    """SIGSTOP and later SIGCONT: the process comes back and does not know that time has passed."""

    name = "pause"
    powers = frozenset({Power.PAUSE})
    weight = 4
    seconds = (0.3, 6.0)

    @override
    def begin(self, system: SystemUnderTest, rng: random.Random) -> Inflicted:
        servers = system.servers()
        victims = (
            tuple(rng.sample(servers, len(servers) // 2 + 1)) if rng.random() < 0.2 else (_victim(system, rng),)
        )
        for victim in victims:
            system.pause(victim)
        return Inflicted(victims, " ".join(victims))

    @override
    def end(self, system: SystemUnderTest, inflicted: Inflicted, rng: random.Random) -> None:
        for victim in inflicted.victims:
            system.resume(victim)


class Partition(Nemesis):
    """Cut the network: one server off, in halves, over a bridge, in a ring of overlapping majorities, one way only."""

    name = "partition"
    powers = frozenset({Power.PARTITION})
    weight = 6
    seconds = (0.5, 8.0)

    @override
    def begin(self, system: SystemUnderTest, rng: random.Random) -> Inflicted:
        servers = list(system.servers())
        rng.shuffle(servers)
        shape = rng.choice(sorted(SHAPES))
        first = _victim(system, rng)
        servers.sort(key=lambda server: server != first)
        cut = SHAPES[shape](servers)
        if rng.random() < 0.3:
            # Only what the first one sends, or only what it hears.
            side = rng.randrange(2)
            one_way = {pair for pair in cut if pair[side] == first}
            if one_way:
                cut, shape = one_way, f"{shape}, one way"
        system.partition(cut, reset=False)
        return Inflicted(tuple(servers), f"{shape} ({first} first)")

    @override
    def end(self, system: SystemUnderTest, inflicted: Inflicted, rng: random.Random) -> None:
        system.partition((), reset=rng.random() < 0.3)


Cut = set[tuple[str, str]]


def _between(left: Sequence[str], right: Sequence[str]) -> Cut:
    return {pair for one in left for other in right for pair in ((one, other), (other, one))}


def isolated(servers: Sequence[str]) -> Cut:
    """The first alone."""
    return _between(servers[:1], servers[1:])


def halves(servers: Sequence[str]) -> Cut:
    """A majority and the rest, the first in the rest."""
    middle = (len(servers) - 1) // 2 or 1
    return _between(servers[:middle], servers[middle:])


def bridge(servers: Sequence[str]) -> Cut:
    """The first reaches all, the others are in two halves."""
    others = servers[1:]
    middle = len(others) // 2
    return _between(others[:middle], others[middle:])


def ring(servers: Sequence[str]) -> Cut:
    """Each reaches a majority, no two the same one."""
    count = len(servers)
    reach = count // 2
    return {
        (one, other)
        for at, one in enumerate(servers)
        for to, other in enumerate(servers)
        if one != other and min((at - to) % count, (to - at) % count) > (reach + 1) // 2
    } or isolated(servers)


SHAPES: Final[dict[str, Callable[[Sequence[str]], Cut]]] = {
    "isolated": isolated,
    "halves": halves,
    "bridge": bridge,
    "ring": ring,
}


class FullDisk(Nemesis):
    """A server that can write nothing more; it has to stop, and to come back when there is room."""

    name = "full-disk"
    powers = frozenset({Power.DISK})
    seconds = (1.0, 4.0)

    @override
    def begin(self, system: SystemUnderTest, rng: random.Random) -> Inflicted:
        victim = _victim(system, rng)
        system.fill_disk(victim)
        return Inflicted((victim,), victim)

    @override
    def end(self, system: SystemUnderTest, inflicted: Inflicted, rng: random.Random) -> None:
        for victim in inflicted.victims:
            system.free_disk(victim)


class Transfer(Nemesis):
    """Leadership is handed to somebody, perhaps in the middle of another fault."""

    name = "transfer"
    powers = frozenset({Power.TRANSFER})
    seconds = (0.0, 0.0)

    @override
    def begin(self, system: SystemUnderTest, rng: random.Random) -> Inflicted:
        target = rng.choice(system.servers())
        system.move_leader(target)
        return Inflicted((target,), f"to {target}")

    @override
    def end(self, system: SystemUnderTest, inflicted: Inflicted, rng: random.Random) -> None:
        """A transfer is over by itself."""


class Members(Nemesis):
    """A server more; later somebody, the leader perhaps, is taken out."""

    name = "members"
    powers = frozenset({Power.MEMBERS})
    seconds = (1.0, 6.0)

    @override
    def begin(self, system: SystemUnderTest, rng: random.Random) -> Inflicted:
        before = set(system.servers())
        if system.leader() is None:
            return Inflicted((), "not changed, since nobody leads")
        system.add_server()
        new = tuple(server for server in system.servers() if server not in before)
        return Inflicted(new, f"added {' '.join(new)}")

    @override
    def end(self, system: SystemUnderTest, inflicted: Inflicted, rng: random.Random) -> None:
        if len(system.servers()) > 3 and system.leader() is not None:
            system.remove_server(_victim(system, rng))


NEMESES: Final[dict[str, Nemesis]] = {
    nemesis.name: nemesis
    for nemesis in (Kill(), KillMajority(), RestartAll(), Pause(), Partition(), FullDisk(), Transfer(), Members())
}
"""By name; a system of your own may be tortured by more."""


def schedule(
    seed: int,
    seconds: float,
    *,
    powers: Collection[Power],
    names: Sequence[str] = (),
    pause_s: tuple[float, float] = (0.3, 3.0),
) -> tuple[Fault, ...]:
    """The faults that *seed* stands for, within *seconds*, in the order in which they begin.

    Faults of different kinds may overlap; one kind is at work once at a time.

    Args:
        powers: what can be done to the system.
        names: of `NEMESES`; all that are possible if empty.
        pause_s: shortest and longest time between the beginnings of two faults.

    Raises:
        UsageError: no such nemesis, or it asks for more than can be done here.
    """
    for name in names:
        if name not in NEMESES:
            raise UsageError(f"no nemesis is called {name!r}; there are {', '.join(NEMESES)}")
        missing = NEMESES[name].powers - frozenset(powers)
        if missing:
            raise UsageError(f"{name} is not possible here: {', '.join(sorted(power.value for power in missing))}")
    chosen = [nemesis for nemesis in NEMESES.values() if nemesis.name in (names or NEMESES)]
    chosen = [nemesis for nemesis in chosen if nemesis.powers <= frozenset(powers)]
    rng = random.Random(seed)
    faults: list[Fault] = []
    busy_until_s: dict[str, float] = {}
    at_s = QUIET_AT_FIRST_S
    while chosen and at_s < seconds:
        free = [nemesis for nemesis in chosen if busy_until_s.get(nemesis.name, 0.0) < at_s]
        if free:
            nemesis = rng.choices(free, [each.weight for each in free])[0]
            end_s = min(seconds, at_s + rng.uniform(*nemesis.seconds))
            busy_until_s[nemesis.name] = end_s
            faults.append(
                Fault(
                    nemesis=nemesis.name,
                    begin_s=round(at_s, 3),
                    end_s=round(end_s, 3),
                    pick=round(rng.random(), 9),
                )
            )
        at_s += rng.uniform(*pause_s)
    return tuple(faults)
