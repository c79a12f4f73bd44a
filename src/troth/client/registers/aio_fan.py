"""`Fan` for asyncio: a task of the loop for each request that is waited for, and answers as they come."""

import asyncio
import contextlib
import random
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

from troth.client import request as requests
from troth.client.registers import recorded
from troth.client.registers.aio_lines import seen
from troth.client.registers.aio_reach import CALLED_OFF, AsyncReach
from troth.client.registers.lines import may_have_arrived
from troth.client.registers.patience import now_s, pause_s
from troth.client.registers.replies import told
from troth.core.register.messages import ReplyMessage
from troth.core.register.task import Outcome, Send, Task


class _Requests:
    """What one task of a proposer has sent and waits for."""

    def __init__(self, task: Task) -> None:
        self.wake = asyncio.Event()
        self._task = task
        self._jobs: dict[asyncio.Task[ReplyMessage], Send] = {}
        self._ended: list[asyncio.Task[ReplyMessage]] = []

    def begin(self, send: Send, asking: Coroutine[Any, Any, ReplyMessage]) -> None:
        job = asyncio.create_task(asking)
        self._jobs[job] = send
        job.add_done_callback(self._on_done)

    def _on_done(self, job: "asyncio.Task[ReplyMessage]") -> None:
        seen(job)
        self._ended.append(job)
        self.wake.set()

    def feed(self) -> None:
        """Hand in what came of those that have ended. Not when they do: what the caller's function raises is to end the
        call, whatever it is."""
        while self._ended:
            job = self._ended.pop(0)
            send = self._jobs.pop(job)
            error = None if job.cancelled() else job.exception()
            if job.cancelled():  # its line was closed
                self._task.on_lost(send)
            elif error is not None:
                self._task.on_lost(send, sent=may_have_arrived(error))
            else:
                self._task.on_reply(send, job.result())

    async def wait(self, left_s: float) -> None:
        """Until one has ended, or the client is closed, or *left_s* are over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(left_s):
                await self.wake.wait()
        self.wake.clear()

    async def call_off(self) -> None:
        """Cancel all, and wait until each says whether its request has left."""
        for job in self._jobs:
            job.cancel(CALLED_OFF)
        if self._jobs:
            await asyncio.wait(self._jobs)
        self.feed()

    def cancel(self) -> None:
        for job in self._jobs:
            job.cancel()


class AsyncFan:
    """Runs tasks of a proposer, each in the task of the loop that calls."""

    def __init__(self, reach: AsyncReach) -> None:
        self._reach = reach
        self._chance = random.Random(requests.draw_bits(64))
        self._running: set[asyncio.Event] = set()
        """Wakes the runs under way."""

    def wake(self) -> None:
        """The client was closed: nobody waits any longer."""
        for wake in self._running:
            wake.set()

    async def run(self, task: Task, deadline: float, record: "recorded.Call | None" = None) -> Outcome:
        """Run *task* to its end; answers are taken as they come."""
        waiting = _Requests(task)
        unsent: list[Send] = []
        self._running.add(waiting.wake)
        try:
            while True:
                waiting.feed()
                sends = task.take()
                if record is not None:
                    record.attempts(task)
                if (outcome := task.outcome) is not None:
                    if outcome.error is None:
                        return outcome
                    return told(outcome, self._reach.complaints(task.config), unsent)
                # Nobody waits for acceptors that a closed client does not reach any more.
                left_s = 0.0 if self._reach.closed else deadline - now_s()
                if left_s <= 0:
                    await self._give_up(task, sends, waiting)
                    unsent = sends
                    continue
                self._send(task, sends, waiting)
                if task.pause:
                    await asyncio.sleep(min(left_s, pause_s(task.pause, self._chance.random())))
                    task.resume()
                else:
                    await waiting.wait(left_s)
        finally:
            self._running.discard(waiting.wake)
            waiting.cancel()

    def _send(self, task: Task, sends: Sequence[Send], waiting: _Requests) -> None:
        for send in sends:
            if send.is_awaited:
                waiting.begin(send, self._reach.ask(send, task.config))
            else:
                self._reach.aside(partial(self._reach.ask, send, task.config))

    async def _give_up(self, task: Task, sends: Sequence[Send], waiting: _Requests) -> None:
        """The time is over. *sends* have not left."""
        await waiting.call_off()
        for send in sends:
            task.on_lost(send, sent=False)
        task.give_up()
