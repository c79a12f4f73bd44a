"""What a trace has told so far: servers by number, the state that they are in, entries as their leaders made them."""

from collections.abc import Collection

from troth.verify.specification.state import NOBODY, Config, Entry, Log, Server, State
from troth.verify.specification.trace import Step, value_of


class NotAllowed(Exception):
    """No action explains the rest of a step."""


class Known:
    """The specification's state while a step is explained, and the ways to speak of it."""

    def __init__(self, *, voters: Collection[int]) -> None:
        self._numbers: dict[int, int] = {}
        self.state = State(servers=(), initial=Config(()))
        initial = Config(tuple(sorted(self._number(voter) for voter in sorted(voters))))
        self.state = self.state._replace(initial=initial)
        self._at = self.state
        self._new: tuple[tuple[int, object], ...] = ()
        self.steps = 0
        self.counts: dict[str, int] = {}

    def _number(self, node: int) -> int:
        """The specification numbers servers from 1; new ones may turn up at any time."""
        if node == NOBODY:
            return NOBODY
        number = self._numbers.get(node)
        if number is None:
            number = self._numbers[node] = len(self._numbers) + 1
            self.state = self.state._replace(servers=(*self.state.servers, Server()))
        return number

    def _name(self, number: int) -> str:
        return next((f"n{node:x}" for node, known in self._numbers.items() if known == number), "nobody")

    def _entries(self, step: Step) -> tuple[tuple[int, object], ...]:
        """(term, value) of the entries of *step*."""
        if step.log is None:
            return ()
        found: list[tuple[int, object]] = []
        for entry in step.log.entries:
            value = value_of(entry)
            if isinstance(value, Config):
                value = Config(
                    tuple(sorted(map(self._number, value.voters))),
                    tuple(sorted(map(self._number, value.outgoing))),
                )
            found.append((int(str(entry[0])), value))
        return tuple(found)

    def _do(self, name: str, after: State | None) -> bool:
        """Take an action if it is allowed."""
        if after is None:
            return False
        self._at = after
        self.counts[name] = self.counts.get(name, 0) + 1
        return True

    def _must(self, name: str, after: State | None, reason: str) -> None:
        if not self._do(name, after):
            raise NotAllowed(reason)

    def _prefix(self, node: int, term: int, index: int) -> Log:
        """The entries that a snapshot up to *index* stands for."""
        if not index:
            return ()
        own = self._at.server(node).log
        if len(own) >= index and own[index - 1].term == term:
            return own[:index]
        agreed = self._at.committed
        if len(agreed) < index or agreed[index - 1].entry.term != term:
            raise NotAllowed(f"its snapshot of index {index}, term {term}, is of something that is not committed")
        return tuple(committed.entry for committed in agreed[:index])

    def _placed(self, behind: int, node: int = NOBODY, makes: Collection[int] = ()) -> Log:
        """The entries of the step, behind that index, as the leaders of their terms made them; *node* leads the terms
        *makes* and may have made new ones just now. An entry that nobody made has no leader."""
        placed: list[Entry] = []
        for at, (term, value) in enumerate(self._new, start=behind):
            reign = self._at.reign(term)
            made = reign.log[at] if reign is not None and at < len(reign.log) else None
            if made is not None and made.term == term and made.value == value:
                placed.append(made)
            else:
                placed.append(Entry(term, node if term in makes else NOBODY, value))
        return tuple(placed)
