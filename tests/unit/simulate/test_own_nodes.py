"""Nodes of one's own in the simulated world, and how fast a red run of theirs gets small."""

from collections.abc import Sequence
from typing import Any

from troth.errors import invariant
from troth.simulate.choices import Choice
from troth.simulate.own import Env, OwnPlan, Playground
from troth.simulate.shrink import Shrinker, Trial


class Eater:
    """Says something to the other one, and changes what it is told."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.found: list[int] = []
        for peer in env.peers:
            env.send(peer, ["fresh"])

    def on_message(self, sender: str, message: Any) -> None:
        self.found.append(len(message))
        message.append("eaten")


def test_the_copies_of_a_message_that_is_doubled_are_apart() -> None:
    def check(playground: Playground) -> None:
        for node in playground.nodes.values():
            invariant(set(node.found) <= {1}, "a message arrives as it was sent")

    outcome = Playground(
        OwnPlan(seed=1, chaos_us=1_000_000, duplicate=1000), {"a": Eater, "b": Eater}, check=check
    ).run()
    assert outcome.counts["duplicate"] == 2
    assert not outcome.violation


def test_a_try_at_shrinking_costs_what_the_choices_are_many() -> None:
    hashed = 0

    class Kind(str):
        __slots__ = ()

        def __hash__(self) -> int:
            nonlocal hashed
            hashed += 1
            return str.__hash__(self)

    whole: list[Choice] = [(Kind("loss"), at) for at in range(400)]

    def trial(plan: int, keep: Sequence[Choice] | None) -> Trial:
        taken = whole if keep is None else list(keep)
        return Trial("broken" if whole[0] in taken and whole[-1] in taken else "", taken, 1)

    shrinker = Shrinker(
        trial, simpler=lambda plan: iter(()), shorter=lambda plan, us, calm: plan, expired=lambda: False
    )
    small = shrinker.shrink(1)
    assert small is not None and len(small.keep) == 2
    assert hashed < 4 * len(whole) * small.runs
