"""A proposer that threads share."""

import threading

from typing_extensions import override

from troth.core.register.messages import Ballot, Configuration
from troth.core.register.proposer import Proposer
from troth.core.register.task import PreparedBallot


class SharedProposer(Proposer):
    """Each of its methods is one step, under *lock*. So a thread may drive the change that it has begun without holding
    that lock, and the caller's function, which may be slow, stops nobody else. Whoever holds it is alone with all that
    tasks share, for as many steps as it needs."""

    def __init__(self, client: int, config: Configuration, lock: "threading.RLock") -> None:
        super().__init__(client, config)
        self._lock = lock

    @override
    def new_ballot(self, ahead: int = 1) -> Ballot:
        with self._lock:
            return super().new_ballot(ahead)

    @override
    def new_stamp(self) -> int:
        with self._lock:
            return super().new_stamp()

    @override
    def observe(self, ballot: Ballot) -> None:
        with self._lock:
            super().observe(ballot)

    @override
    def courtesy(self, rival: int) -> int:
        with self._lock:
            return super().courtesy(rival)

    @override
    def met(self, rival: int, *, served: bool) -> None:
        with self._lock:
            super().met(rival, served=served)

    @override
    def adopt(self, config: Configuration) -> None:
        with self._lock:
            super().adopt(config)

    @override
    def take_prepared(self, key: bytes) -> PreparedBallot | None:
        with self._lock:
            return super().take_prepared(key)

    @override
    def remember(self, key: bytes, kept: PreparedBallot) -> None:
        with self._lock:
            super().remember(key, kept)
