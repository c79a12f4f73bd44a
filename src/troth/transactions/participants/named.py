"""The participants of one coordinator, found by whatever callers name them by."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.engine.base import OptionEngine

from troth.errors import UsageError
from troth.transactions.participants.base import Participant
from troth.transactions.participants.bounded import Bounded
from troth.transactions.participants.sql import SqlParticipant, engine_problems
from troth.transactions.waiting import Waiting


class Participants:
    """All that take part.

    Attributes:
        all: themselves, for a transaction's own work.
        asked: the same, for whoever does not do that: none can keep others waiting for ever.
    """

    def __init__(self, participants: Sequence[Participant], waiting: Waiting) -> None:
        self.all = tuple(participants)
        self.names = [participant.name for participant in participants]
        self.asked = tuple(Bounded(participant, waiting) for participant in participants)
        self._asked = {participant.name: participant for participant in self.asked}
        self._by_key: dict[Any, Participant] = {}
        for participant in participants:
            for key in (participant.name, participant.given, getattr(participant, "engine", None)):
                if key is not None:
                    self._by_key[key] = participant

    def find(self, named: Any) -> Participant:
        """The participant of this name, engine or client. Raises UsageError."""
        try:
            return self._by_key[named]
        except (KeyError, TypeError):
            names = ", ".join(self.names)
            raise UsageError(
                f"{named!r:.80} is no participant of this TwoPhaseCommit; these are: {names}"
            ) from None

    def find_with_options(self, named: Any) -> tuple[Participant, Engine | None]:
        """`find`; and *named* itself, if it is an engine made of the participant's by ``execution_options``."""
        engine = base = getattr(named, "sync_engine", named)
        while isinstance(base, OptionEngine) and base not in self._by_key:
            base = base._proxied
        if base is engine or base not in self._by_key:
            return self.find(named), None
        found = self._by_key[base]
        problems = engine_problems(engine, found.name)
        if problems:
            raise UsageError("; ".join(problems))
        return found, engine

    def find_asked(self, name: str) -> Bounded:
        """Of `asked`, the one of this name. Raises UsageError."""
        return self._asked[self.find(name).name]

    def engines(self) -> list[Engine]:
        return [participant.engine for participant in self.all if isinstance(participant, SqlParticipant)]
