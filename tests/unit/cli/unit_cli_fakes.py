"""A client that records what it is asked and answers what the test told it to."""

from types import TracebackType
from typing import Any

from troth.core.interface import Member
from troth.ids import NodeId, Term
from troth.replica.protocol import PeerView, ServerStatus


class Idle:
    """A background that runs nothing."""

    def run(self, *_: object) -> None: ...


class FakeClient:
    """Every method records ``(name, args, kwargs)`` in `calls` and returns (or raises) what `answers` has for it."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.closed = False
        self.aio: Any = None
        self.background: Any = Idle()

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    def __enter__(self) -> "FakeClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True


def server(
    number: int,
    *,
    role: str = "follower",
    term: int = 3,
    survives: int = 1,
    voters: int = 3,
    silent: tuple[int, ...] = (),
    joint: bool = False,
) -> ServerStatus:
    """The status of server n*number* of *voters*; a leader does not hear those in *silent*."""
    leads = role == "leader"
    peers = [
        PeerView(
            NodeId(node),
            Member(f"n{node}", f"127.0.0.1:710{node}", f"127.0.0.1:700{node}"),
            True,
            match=9 if leads else -1,
            active=(node not in silent) if leads else None,
        )
        for node in range(1, voters + 1)
    ]
    return ServerStatus(
        call=1,
        node_id=NodeId(number),
        name=f"n{number}",
        cluster_id=7,
        version="0.1.0",
        role=role,
        term=Term(term),
        leader=NodeId(1),
        revision=41,
        compact_revision=0,
        commit_index=9,
        applied_index=9,
        last_index=9,
        first_index=1,
        db_size_bytes=3 << 20,
        survives=survives,
        joint=joint,
        peers=peers,
    )
