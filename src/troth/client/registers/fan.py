"""Fans each phase of a task out to the acceptors, and goes on as soon as a quorum has answered.

Nothing here is asyncio underneath: a call sends to all acceptors by the `ThreadPoolExecutor` of each (lines.py), takes
the answers `as_completed`, and leaves the slowest to itself.
"""

import random
import time
from collections.abc import Sequence
from concurrent.futures import Future, as_completed
from contextlib import AbstractContextManager

from troth.client.registers import recorded
from troth.client.registers.lines import may_have_arrived
from troth.client.registers.patience import pause_s
from troth.client.registers.reach import Reach
from troth.client.registers.replies import told
from troth.core.register.messages import ReplyMessage
from troth.core.register.task import Outcome, Send, Task


class Fan:
    """Runs tasks, each in its caller's thread."""

    def __init__(self, reach: Reach, lock: AbstractContextManager[object]) -> None:
        """*lock* guards what tasks share: their proposer."""
        self._reach = reach
        self._lock = lock
        self._chance = random.Random()

    def run(
        self,
        task: Task,
        deadline: float,
        record: "recorded.Call | None" = None,
        guard: AbstractContextManager[object] | None = None,
    ) -> Outcome:
        """Run *task* to its end: fan out, take answers as they come, never wait for the slowest.

        *guard* is held while the task makes up its mind; the client's lock, if none is given.
        """
        guard = guard or self._lock
        pending: dict[Future[ReplyMessage], Send] = {}
        unsent: list[Send] = []
        while True:
            with guard:
                sends, outcome, pause = task.take(), task.outcome, task.pause
                if record is not None:
                    record.attempts(task)
            if outcome is not None:
                for future in pending:
                    future.cancel()
                if outcome.error is None:
                    return outcome
                return told(outcome, self._reach.complaints(task.config), unsent)
            # Nobody waits for acceptors that a closed client does not reach any more.
            left_s = 0.0 if self._reach.closed else deadline - time.monotonic()
            if left_s <= 0:
                self._give_up(task, sends, pending, guard)
                unsent = sends
                continue
            for send in sends:
                answer = self._reach.ask(send, task.config, deadline)
                if send.is_awaited:
                    pending[answer] = send
            if pause:
                time.sleep(min(left_s, pause_s(pause, self._chance.random())))
                with guard:
                    task.resume()
            else:
                self._take_answers(task, pending, left_s, guard)

    def _give_up(
        self,
        task: Task,
        sends: Sequence[Send],
        pending: dict[Future[ReplyMessage], Send],
        guard: AbstractContextManager[object],
    ) -> None:
        """The time is over. *sends* have not left."""
        unsent = [send for future, send in pending.items() if future.cancel() or _has_failed_to_leave(future)]
        with guard:
            for send in [*sends, *unsent]:
                task.on_lost(send, sent=False)
            task.give_up()

    def _take_answers(
        self,
        task: Task,
        pending: dict[Future[ReplyMessage], Send],
        left_s: float,
        guard: AbstractContextManager[object],
    ) -> None:
        """Feed *task* until it wants something else."""
        for future in [future for future, send in pending.items() if not task.is_current(send)]:
            future.cancel()
            del pending[future]
        try:
            for future in as_completed(list(pending), timeout=left_s):
                send = pending.pop(future)
                error = future.exception()
                with guard:
                    if error is None:
                        task.on_reply(send, future.result())
                    else:
                        task.on_lost(send, sent=may_have_arrived(error))
                    if task.outcome is not None or task.pause or task.has_sends:
                        return
        except TimeoutError:
            pass


def _has_failed_to_leave(answer: "Future[ReplyMessage]") -> bool:
    error = answer.exception() if answer.done() else None
    return error is not None and not may_have_arrived(error)
