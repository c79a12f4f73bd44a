"""Your own nodes in the simulated world: any protocol whose code does no input and output by itself.

A node is a class. What it needs of the world comes in as an `Env`: it sends, sets timers, keeps things on a disk, and
draws numbers, and everything it is told arrives at its methods. Nothing else is asked of it::

    class Node:
        def __init__(self, env: Env) -> None: ...          # also after each crash; env.stable holds what was synced
        def on_message(self, sender: str, message: Any) -> None: ...
        def on_request(self, request: Any) -> None: ...    # optional: what your clients ask for

    outcome = run(seed, {"a": Node, "b": Node, "c": Node}, requests=..., check=...)

The world loses, delays, doubles and reorders messages, cuts links, and crashes and pauses nodes, each seed in its own
way; *check* is called after everything that happens and raises when something is wrong (`troth.errors.invariant`).
The same seed gives the same run; `shrink` makes a red one small.
"""

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from troth.errors import InvariantViolation
from troth.simulate.choices import OPERATION, Choice, Choices
from troth.simulate.rng import stream
from troth.simulate.shrink import Shrinker, Shrunk, Trial
from troth.simulate.world import World

MS_US = 1000


class OwnNode(Protocol):
    """What the world asks of a node. `on_request` may be left out when there are no requests."""

    def on_message(self, sender: str, message: Any) -> None:
        """*sender* has said *message*."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPlan:
    """What a seed stands for. Chances are per mille of messages, rates are events per 100 simulated seconds."""

    seed: int
    chaos_us: int
    delay_us: int = 2_000
    loss: int = 0
    duplicate: int = 0
    late: int = 0
    partitions: int = 0
    crashes: int = 0
    pauses: int = 0
    request_us: int = 50_000
    """Mean time between two requests."""


FAULTS = ("loss", "duplicate", "late", "partitions", "crashes", "pauses")


def draw(seed: int, *, seconds: float = 10) -> OwnPlan:
    """The plan of *seed*: swarm testing, so that each seed leaves some faults out."""
    rng = stream(seed, "own plan")

    def maybe(chance: float, lo: int, hi: int) -> int:
        return rng.randint(lo, hi) if rng.random() < chance else 0

    return OwnPlan(
        seed=seed,
        chaos_us=int(seconds * 1_000_000),
        delay_us=rng.choice((500, 2_000, 20_000)),
        loss=maybe(0.5, 5, 200),
        duplicate=maybe(0.5, 5, 200),
        late=maybe(0.4, 5, 100),
        partitions=maybe(0.5, 20, 200),
        crashes=maybe(0.5, 20, 200),
        pauses=maybe(0.4, 20, 150),
        request_us=rng.choice((10_000, 50_000, 200_000)),
    )


class Env:
    """One node's side of the world. Nothing of it works once the node has crashed."""

    def __init__(self, playground: "Playground", name: str, life: int, stable: dict[str, Any]) -> None:
        self.name = name
        self.peers: tuple[str, ...] = tuple(peer for peer in playground.names if peer != name)
        self.stable = stable
        """What survives a crash, as far as `sync` has been called since it was changed."""
        self.rng: random.Random = stream(playground.plan.seed, "own node", name, life)
        self._playground = playground
        self._life = life

    @property
    def now_ms(self) -> float:
        """Time on this node's clock."""
        return self._playground.world.now_us / MS_US

    def send(self, to: str, message: Any) -> None:
        """Send *message*; it may be lost, late, doubled or overtaken. It is copied, as the network does."""
        if self._alive:
            self._playground.carry(self.name, to, message)

    def after(self, ms: float, callback: Callable[[], None]) -> None:
        """Call *callback* in *ms* milliseconds, if this node still lives then."""
        self._playground.world.after(int(ms * MS_US), self._playground.enter, self.name, self._life, callback)

    def sync(self) -> None:
        """Make `stable` as it is survive a crash."""
        if self._alive:
            self._playground.disks[self.name] = deepcopy(self.stable)

    def tell(self, text: str) -> None:
        """Note something for the report of a red run."""
        self._playground.tell(self.name, text)

    @property
    def _alive(self) -> bool:
        return self._playground.lives[self.name] == self._life


@dataclass(slots=True, kw_only=True)
class OwnOutcome:
    """What came of a run. `violation` is empty when nothing went wrong."""

    plan: OwnPlan
    violation: str = ""
    events: list[str] = field(default_factory=list)
    """What happened, as told by the nodes and the world; the newest last."""
    counts: dict[str, int] = field(default_factory=dict)
    taken: list[Choice] = field(default_factory=list)
    ended_us: int = 0


class Playground:
    """Your nodes and the world around them. `nodes` holds those that are up."""

    def __init__(
        self,
        plan: OwnPlan,
        nodes: Mapping[str, Callable[[Env], Any]],
        *,
        requests: Callable[[random.Random, int], Any] | None = None,
        check: Callable[["Playground"], None],
        keep: Collection[Choice] | None = None,
    ) -> None:
        """Args:
        nodes: a class (or function that makes a node) for each name.
        requests: draws the n-th request that a client makes to a node of its choice.
        check: called after each thing that happens; raises when something is wrong.
        keep: of what could happen only this does (see choices.py).
        """
        self.plan = plan
        self.world = World()
        self.choices = Choices(keep)
        self.names = tuple(nodes)
        self.nodes: dict[str, Any] = {}
        self.disks: dict[str, dict[str, Any]] = {name: {} for name in nodes}
        self.lives: dict[str, int] = dict.fromkeys(nodes, 0)
        self.counts: dict[str, int] = {}
        self.events: list[str] = []
        self._makers = dict(nodes)
        self._requests = requests
        self._check = check
        self._cut: set[tuple[str, str]] = set()
        self._paused: dict[str, list[Callable[[], None]]] = {}
        self._rng = stream(plan.seed, "own world")
        self._calm = False

    # ---- for nodes -------------------------------------------------------------------------------------

    def carry(self, sender: str, to: str, message: Any) -> None:
        """A message leaves *sender*."""
        plan, draw = self.plan, self._rng.random
        if (sender, to) in self._cut:
            self._count("cut")
            return
        if not self._calm and draw() * 1000 < plan.loss and self.choices.take("loss"):
            self._count("loss")
            return
        copies = 1
        if not self._calm and draw() * 1000 < plan.duplicate and self.choices.take("duplicate"):
            self._count("duplicate")
            copies = 2
        for _ in range(copies):
            delay_us = 50 + int(draw() * 2 * plan.delay_us)
            if not self._calm and draw() * 1000 < plan.late and self.choices.take("late"):
                self._count("late")
                delay_us *= 50
            self.world.after(delay_us, self._arrive, sender, to, deepcopy(message))

    def enter(self, name: str, life: int, action: Callable[[], None]) -> None:
        """*action* happens to the node *name*, if it is still the one it was."""
        if self.lives[name] != life or name not in self.nodes:
            return
        if name in self._paused:
            self._paused[name].append(lambda: self.enter(name, life, action))
            return
        action()
        self._check(self)

    def tell(self, name: str, text: str) -> None:
        """Note something that has happened."""
        self.events.append(f"{self.world.now_us / 1e6:9.4f} s  {name:4} {text}")

    def _arrive(self, sender: str, to: str, message: Any) -> None:
        if (sender, to) in self._cut or to not in self.nodes:
            self._count("cut")
            return
        node = self.nodes[to]
        self.enter(to, self.lives[to], lambda: node.on_message(sender, message))

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    # ---- the run ---------------------------------------------------------------------------------------

    def run(self) -> OwnOutcome:
        """Chaos, then as long a time of calm; never raises for what *check* (or an `invariant`) finds."""
        outcome = OwnOutcome(plan=self.plan)
        try:
            for name in self.names:
                self._boot(name)
            for kind, rate, fault in (
                ("partition", self.plan.partitions, self._partition),
                ("crash", self.plan.crashes, self._crash),
                ("pause", self.plan.pauses, self._pause),
            ):
                if rate:
                    self._plan_next(kind, rate, fault, 0)
            if self._requests is not None:
                self._plan_request(0)
            self.world.run_until(self.plan.chaos_us)
            self._calm = True
            self._heal()
            for name in self.names:
                self._resume(name)
                self._boot(name)
            self.tell("", "calm")
            self.world.run_until(2 * self.plan.chaos_us)
        except InvariantViolation as violation:
            outcome.violation = str(violation)
        outcome.events = self.events[-60:]
        outcome.counts = dict(sorted(self.counts.items()))
        outcome.taken = self.choices.taken
        outcome.ended_us = self.world.now_us
        return outcome

    def _boot(self, name: str) -> None:
        if name not in self.nodes:
            self.lives[name] += 1
            env = Env(self, name, self.lives[name], deepcopy(self.disks[name]))
            self.nodes[name] = self._makers[name](env)

    def _plan_request(self, number: int) -> None:
        rng = stream(self.plan.seed, "own request", number)
        self.world.after(int(rng.random() * 2 * self.plan.request_us) + 1, self._request, number, rng)

    def _request(self, number: int, rng: random.Random) -> None:
        if self._calm or self._requests is None:
            return
        request, name = self._requests(rng, number), rng.choice(self.names)
        if self.choices.take(OPERATION) and name in self.nodes:
            node = self.nodes[name]
            self.tell(name, f"is asked {request!r}")
            self.enter(name, self.lives[name], lambda: node.on_request(request))
        self._plan_request(number + 1)

    def _plan_next(self, kind: str, rate: int, fault: Callable[[random.Random], str | None], number: int) -> None:
        rng = stream(self.plan.seed, "own", kind, number)
        wait_us = int(rng.expovariate(1.0) * 100_000_000 / rate)
        self.world.after(wait_us, self._happen, kind, rate, fault, number, rng)

    def _happen(
        self,
        kind: str,
        rate: int,
        fault: Callable[[random.Random], str | None],
        number: int,
        rng: random.Random,
    ) -> None:
        if self._calm:
            return
        if self.choices.take(kind):
            what = fault(rng)
            if what is not None:
                self._count(kind)
                self.tell("", f"{kind} {what}")
        self._plan_next(kind, rate, fault, number + 1)

    def _partition(self, rng: random.Random) -> str:
        one = set(rng.sample(self.names, rng.randint(1, max(1, len(self.names) - 1))))
        other = [name for name in self.names if name not in one]
        both_ways = rng.random() < 0.7
        for a in sorted(one):
            for b in other:
                self._cut.add((a, b))
                if both_ways:
                    self._cut.add((b, a))
        self.world.after(rng.randrange(10_000, 2_000_000), self._heal)
        return f"{','.join(sorted(one))} | {','.join(other)}{'' if both_ways else ' (one way)'}"

    def _heal(self) -> None:
        self._cut.clear()

    def _crash(self, rng: random.Random) -> str | None:
        name = rng.choice(self.names)
        if name not in self.nodes:
            return None
        del self.nodes[name]
        self.lives[name] += 1
        self._paused.pop(name, None)
        self.world.after(rng.randrange(10_000, 2_000_000), self._boot, name)
        return name

    def _pause(self, rng: random.Random) -> str | None:
        name = rng.choice(self.names)
        if name not in self.nodes or name in self._paused:
            return None
        self._paused[name] = []
        self.world.after(rng.randrange(10_000, 1_000_000), self._resume, name)
        return name

    def _resume(self, name: str) -> None:
        for action in self._paused.pop(name, []):
            action()


def run(
    seed: int,
    nodes: Mapping[str, Callable[[Env], Any]],
    *,
    requests: Callable[[random.Random, int], Any] | None = None,
    check: Callable[[Playground], None],
    seconds: float = 10,
) -> OwnOutcome:
    """Run your nodes on one seed; the arguments are those of `Playground`."""
    return Playground(draw(seed, seconds=seconds), nodes, requests=requests, check=check).run()


def shrink(
    seed: int,
    nodes: Mapping[str, Callable[[Env], Any]],
    *,
    requests: Callable[[random.Random, int], Any] | None = None,
    check: Callable[[Playground], None],
    seconds: float = 10,
    expired: Callable[[], bool] = lambda: False,
) -> tuple[Shrunk[OwnPlan], OwnOutcome] | None:
    """Make the red run of *seed* small, and run it once more; None when it is green."""

    def again(plan: OwnPlan, keep: Sequence[Choice] | None) -> OwnOutcome:
        return Playground(plan, nodes, requests=requests, check=check, keep=keep).run()

    def trial(plan: OwnPlan, keep: Sequence[Choice] | None) -> Trial:
        outcome = again(plan, keep)
        return Trial(outcome.violation, outcome.taken, outcome.ended_us)

    shrinker = Shrinker(trial, simpler=_simpler, shorter=_shorter, expired=expired)
    small = shrinker.shrink(draw(seed, seconds=seconds))
    return None if small is None else (small, again(small.plan, small.keep))


def _simpler(plan: OwnPlan) -> Iterator[OwnPlan]:
    on = [name for name in FAULTS if getattr(plan, name)]
    for names in (on, *([name] for name in on)):
        if names:
            yield replace(plan, **dict.fromkeys(names, 0))


def _shorter(plan: OwnPlan, chaos_us: int, calm: bool) -> OwnPlan:
    del calm
    return replace(plan, chaos_us=max(1_000, min(plan.chaos_us, chaos_us)))
