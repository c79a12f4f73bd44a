"""Your own protocol in the simulator: a little primary and its backups, with a bug that only some crashes show.

The primary stores a value, sends it to the backups, and acknowledges it when both have said that they hold it. The
backups answer before what they hold is on their disks. `python examples/simulate_your_own.py`
"""

from typing import Any

from troth.errors import invariant
from troth.simulate.own import Env, Playground, run, shrink

PRIMARY, BACKUPS = "p", ("b1", "b2")


class Node:
    """Both roles."""

    correct = False

    def __init__(self, env: Env) -> None:
        self.env = env
        self.values: list[int] = env.stable.setdefault("values", [])
        self.acknowledged: list[int] = env.stable.setdefault("acknowledged", [])
        self.answers: dict[int, set[str]] = {}

    def on_request(self, value: int) -> None:
        if self.env.name == PRIMARY:
            self.values.append(value)
            self.env.sync()
            for backup in BACKUPS:
                self.env.send(backup, ("store", value))

    def on_message(self, sender: str, message: Any) -> None:
        kind, value = message
        if kind == "store":
            if value not in self.values:
                self.values.append(value)
            # The bug: the disk is written later, although the answer leaves now.
            self.env.sync() if self.correct else self.env.after(20, self.env.sync)
            self.env.send(sender, ("stored", value))
        else:
            self.answers.setdefault(value, set()).add(sender)
            if self.answers[value] == set(BACKUPS) and value not in self.acknowledged:
                self.acknowledged.append(value)
                self.env.sync()


class Correct(Node):
    correct = True


def check(world: Playground) -> None:
    """What is acknowledged is on the disks of the backups."""
    for value in world.disks[PRIMARY].get("acknowledged", ()):
        for backup in BACKUPS:
            up = world.nodes.get(backup)
            held = world.disks[backup].get("values", ()) if up is None else up.values
            invariant(value in held, "an acknowledged value is lost", value=value, backup=backup)


def main() -> None:
    def go(what: Any, seed: int, kind: type[Node]) -> Any:
        nodes = dict.fromkeys((PRIMARY, *BACKUPS), kind)
        return what(seed, nodes, requests=lambda rng, number: number, check=check, seconds=3)

    assert not any(go(run, seed, Correct).violation for seed in range(200))
    red = next(seed for seed in range(200) if go(run, seed, Node).violation)
    small, outcome = go(shrink, red, Node)
    print(f"seed {red} is red; {small.faults} faults and {small.operations} requests are enough:")
    print("\n".join(outcome.events), outcome.violation, sep="\n")
    assert small.faults <= 3 and small.operations <= 2


if __name__ == "__main__":
    main()
