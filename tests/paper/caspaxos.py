"""Three acceptors and as many proposers as a test wants, with every message in the test's hand."""

from collections import defaultdict
from collections.abc import Collection

from troth.core.register.acceptor import Acceptor
from troth.core.register.messages import (
    Ballot,
    Configuration,
    Configure,
    ReplyMessage,
    RequestMessage,
    Seat,
    State,
    founding,
    group_of,
)
from troth.core.register.proposer import Proposer
from troth.core.register.reconfigure import Reconfiguration
from troth.core.register.task import Outcome, Send, Task
from troth.ids import NodeId


def ballot(round: int, client: int = 1) -> Ballot:
    return Ballot(round, client)


def state(value: bytes | None, at: Ballot, version: int = 1) -> State:
    return State(value, version, at, Ballot())


class Table:
    """Acceptors 1 .. n in their first configuration; `log` is every request that arrived, with its answer."""

    def __init__(self, acceptors: int = 3, *, prepare: int = 0, accept: int = 0, spares: int = 0) -> None:
        self.acceptors = {NodeId(n): Acceptor(NodeId(n)) for n in range(1, acceptors + spares + 1)}
        seats = tuple(Seat(NodeId(n), f"a{n}") for n in range(1, acceptors + 1))
        self.config: Configuration = founding(group_of(seats, prepare=prepare, accept=accept))
        for node in range(1, acceptors + 1):
            self.acceptors[NodeId(node)].on_request(Configure(self.config))
        self.log: list[tuple[int, RequestMessage, ReplyMessage]] = []
        self._stamps: defaultdict[Task, set[int]] = defaultdict(set)

    def proposer(self, client: int) -> Proposer:
        return Proposer(client, self.config)

    def hand(self, send: Send) -> ReplyMessage:
        """Let *send* arrive; what is answered."""
        reply, _ = self.acceptors[send.to].on_request(send.request)
        self.log.append((send.to, send.request, reply))
        return reply

    def ask(self, node: int, request: RequestMessage) -> ReplyMessage:
        return self.hand(Send(NodeId(node), request, 0))

    def run(self, task: Task, *, up: Collection[int] = (), steps: int = 2000) -> Outcome:
        """Drive *task* to its end; acceptors that are not *up* (all, if none is named) are lost."""
        for _ in range(steps):
            if task.outcome is not None:
                return task.outcome
            sends = task.take()
            self._stamps[task].update(send.stamp for send in sends)
            if not sends and task.pause:
                task.resume()
                continue
            for send in sends:
                if not up or send.to in up:
                    task.on_reply(send, self.hand(send))
                else:
                    task.on_lost(send)
            if not sends and not task.pause and task.outcome is None:
                break
        task.give_up()
        assert task.outcome is not None
        return task.outcome

    def step(self, task: Task, *, reach: Collection[int], answer: Collection[int] = ()) -> list[Send]:
        """One fan-out of *task*: it arrives at *reach*, and the answers of *answer* come back. The others are lost
        without anybody being told. Returns the sends."""
        sends = task.take()
        for send in sends:
            if send.to in reach:
                reply = self.hand(send)
                if send.to in answer:
                    task.on_reply(send, reply)
        return sends

    def fan_outs(self, task: Task) -> int:
        """How many times *task*, which was `run`, has asked all acceptors something."""
        return len(self._stamps[task])

    def requests(self, kind: type[RequestMessage]) -> int:  # type: ignore[valid-type]
        return sum(isinstance(request, kind) for _, request, _ in self.log)


def seats(*numbers: int) -> dict[NodeId, str]:
    return {NodeId(number): f"a{number}" for number in numbers}


def configure(table: Table, config: Configuration) -> None:
    """Begin *table* anew, in *config*."""
    table.config = config
    table.acceptors = {number: Acceptor(number) for number in table.acceptors}
    for acceptor in table.acceptors.values():
        acceptor.on_request(Configure(config))


def until_joint(
    table: Table, operator: Proposer, *numbers: int, prepare: int = 0, accept: int = 0
) -> Reconfiguration:
    """A change of *operator*'s to these acceptors, driven to where old and new group stand together."""
    task = Reconfiguration(operator, seats(*numbers), prepare=prepare, accept=accept)
    while not operator.config.is_joint:
        for send in task.take():
            task.on_reply(send, table.hand(send))
    return task
