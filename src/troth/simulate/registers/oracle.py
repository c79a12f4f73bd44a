"""What the answers to appends and proposals say about each other."""

from troth.core.register import changes
from troth.core.register.states import Change
from troth.core.register.task import Outcome
from troth.errors import NotApplied, OutcomeUnknown, invariant


def append(tag: str) -> Change:
    """A change that shows in every later state, so that it can be counted."""
    return changes.apply(lambda held: tag.encode() if held is None else held + b"," + tag.encode())


class Oracle:
    """Collects the answers; `judge` holds them against what the registers hold in the end."""

    def __init__(self) -> None:
        self.guess: dict[str, str | None] = {}
        self.asked: dict[str, str] = {}
        self._answers: dict[str, Outcome] = {}
        self._decided: dict[str, bytes | None] = {}
        self._final: dict[str, list[str]] = {}

    def on_append(self, key: str, tag: str, outcome: Outcome) -> None:
        self._answers[tag] = outcome
        if outcome.error is None:
            listed = (outcome.value or b"").decode().split(",")
            invariant(
                listed.count(tag) == 1, "an append is answered wrongly", key=key, tag=tag, value=outcome.value
            )

    def on_decided(self, key: str, outcome: Outcome) -> None:
        known = self._decided.setdefault(key, outcome.value)
        invariant(known == outcome.value, "decided twice", key=key, one=known, other=outcome.value)

    def on_final(self, key: str, held: str | None) -> None:
        self._final[key] = [] if held is None else held.split(",")

    def judge(self) -> None:
        """Exactly once, at most once, never."""
        for tag, key in self.asked.items():
            count = self._final[key].count(tag)
            outcome = self._answers.get(tag)
            invariant(count <= 1, "a change was applied twice", key=key, tag=tag)
            if outcome is None or isinstance(outcome.error, OutcomeUnknown):
                continue
            if outcome.error is None:
                invariant(count == 1, "an acknowledged change is lost", key=key, tag=tag)
                listed = (outcome.value or b"").decode().split(",")
                invariant(self._final[key][: len(listed)] == listed, "a list has two pasts", key=key, tag=tag)
            if isinstance(outcome.error, NotApplied):
                invariant(count == 0, "a change that was not applied has happened", key=key, tag=tag)
