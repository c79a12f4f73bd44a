"""What a change knows of its own accepts: which may still come true, and which never will.

An attempt is in doubt for as long as an acceptor may hold it. One that *all* acceptors have refused, or were never
sent, is forgotten: nobody has it, nobody ever will. One that is `open` may yet be answered, so that a change which can
not tell from the present state what became of it waits for that (*parked*).
"""

from abc import abstractmethod

from typing_extensions import override

from troth.core.register.messages import Accept, Ballot, Conflict, Full, ReplyMessage, State, WrongConfig
from troth.core.register.states import Attempt
from troth.core.register.task import Exchange, ProposerState, Send
from troth.ids import NodeId


class Attempting(Exchange):
    """An exchange in which changes are sent to acceptors."""

    def __init__(self, proposer: ProposerState) -> None:
        super().__init__(proposer)
        self.attempts: list[Attempt] = []
        """Changes that were sent to acceptors and may have happened, each at a ballot of its own."""
        self._parked: tuple[State | None, Ballot] | None = None
        """What phase 1 has found, while it does not say what became of an earlier attempt."""

    @override
    def is_current(self, send: Send) -> bool:
        return super().is_current(send) or (self.outcome is None and self._attempt_of(send) is not None)

    @override
    def on_reply(self, send: Send, reply: ReplyMessage) -> None:
        attempt = self._attempt_of(send)
        is_answer = send.then is None and not isinstance(reply, WrongConfig)
        if attempt is not None and is_answer:
            self._note(attempt, send.to, refused=isinstance(reply, Conflict | Full))
        super().on_reply(send, reply)
        if attempt is not None and not is_answer and not self._asks_again(attempt, send.to):
            self._note(attempt, send.to, refused=True)
        self._unpark()

    @override
    def on_lost(self, send: Send, *, sent: bool = True) -> None:
        attempt = self._attempt_of(send)
        if attempt is not None:
            # A `Configure` that is lost leaves the accept behind it as it was: refused, since the epochs differ.
            self._note(attempt, send.to, refused=not sent or send.then is not None)
        super().on_lost(send)
        self._unpark()

    def _asks_again(self, attempt: Attempt, acceptor: NodeId) -> bool:
        """Whether *acceptor*, which is in another configuration, is to be sent the accept of *attempt* once more."""
        return any(send.to == acceptor and self._attempt_of(send) is attempt for send in self._sends)

    def _drop_sends(self) -> None:
        """What has not left by now never will."""
        for send in self.take():
            if attempt := self._attempt_of(send):
                self._note(attempt, send.to, refused=True)

    def _note(self, attempt: Attempt, acceptor: NodeId, *, refused: bool) -> None:
        """Nothing more will be heard from *acceptor* about *attempt*; *refused*: and it does not hold it."""
        attempt.open.discard(acceptor)
        if refused:
            attempt.doubtful.discard(acceptor)
            if not attempt.doubtful and attempt in self.attempts:
                # Every acceptor has refused this ballot for good: nobody holds it, nobody ever will.
                self.attempts.remove(attempt)

    def _attempt_of(self, send: Send) -> Attempt | None:
        """The attempt that *send* is the accept of, if its answer may still tell something."""
        request = send.request if send.then is None else send.then
        if not isinstance(request, Accept):
            return None
        return next(
            (each for each in self.attempts if each.ballot == request.ballot and send.to in each.open), None
        )

    def _unpark(self) -> None:
        if self._parked is not None and self.outcome is None:
            parked, self._parked = self._parked, None
            self._propose(*parked)

    @abstractmethod
    def _propose(self, state: State | None, fence: Ballot) -> None:
        """Go on from what phase 1 has found."""
