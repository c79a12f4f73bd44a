"""A run as a picture: one self-contained HTML page with a space-time diagram (Lamport) that can be scrubbed.

Time runs to the right; each server and client is a line, each message an arrow from where it left to where it arrived.
A line's colour is the term of its server, a thick one leads, a broken one is down. Faults are marked above.
"""

from collections import deque
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import msgspec

from troth.core.interface import Trace
from troth.rehearsal.levels import Report

if TYPE_CHECKING:
    from troth.rehearsal.cluster import Cluster
    from troth.simulate.run import Simulation

MESSAGES_MAX = 60_000
"""The newest are kept: what matters stands at the end of a run."""


class Drawing:
    """Collects what a page shows, while the run goes on."""

    def __init__(self, level: str) -> None:
        self.level = level
        self.nodes: dict[str, int] = {}
        self.messages: deque[tuple[int, int, int, int, str]] = deque(maxlen=MESSAGES_MAX)
        """(left at, arrives at, from, to, what)"""
        self.events: list[tuple[int, int, str, int]] = []
        """(time, line or -1 for the world, what happened, term or -1)"""
        self.states: list[tuple[int, int, int, int]] = []
        """(time, line, term, 0 down, 1 up, 2 leads): whenever it changes"""
        self._last: dict[int, tuple[int, int]] = {}

    def watch(self, run: Any) -> None:
        """Collect from *run*: a `Cluster` of servers, or a `Simulation` of cores."""
        if self.level == "server":
            self._watch_servers(run)
        else:
            self._watch_cores(run)

    def _line(self, name: str) -> int:
        return self.nodes.setdefault(name, len(self.nodes))

    def _state(self, now_us: int, name: str, term: int, state: int) -> None:
        line = self._line(name)
        if self._last.get(line) != (term, state):
            self._last[line] = (term, state)
            self.states.append((now_us, line, term, state))

    # ---- whole servers -----------------------------------------------------------------------------------

    def _watch_servers(self, cluster: "Cluster") -> None:
        for name in cluster.hosts:
            self._line(name)

        def look(now_us: int) -> None:
            for name, host in cluster.hosts.items():
                seat = host.seat
                if host.up and seat is not None and seat.up:
                    self._state(now_us, name, int(seat.view.term), 2 if seat.view.leads else 1)
                else:
                    self._state(now_us, name, self._last.get(self._line(name), (0, 0))[0], 0)

        def on_tell(now_us: int, host: str, text: str, trace: Trace | None) -> None:
            look(now_us)
            term = trace.facts.get("term", -1) if trace is not None else -1
            line = self._line(host) if host else -1
            self.events.append((now_us, line, text, term if isinstance(term, int) else -1))

        def on_frame(source: str, target: str, data: bytes, arrives_us: int) -> None:
            now_us = cluster.world.now_us
            look(now_us)
            what = cluster.sending or f"{len(data)} bytes"
            cluster.sending = ""
            self.messages.append((now_us, arrives_us, self._line(source), self._line(target), what))

        cluster.on_tell = on_tell
        cluster.network.on_frame = on_frame

    # ---- bare cores --------------------------------------------------------------------------------------

    def _watch_cores(self, simulation: "Simulation") -> None:
        world, network = simulation.world, simulation.network
        names = {node_id: f"n{node_id}" for node_id in simulation.nodes}
        for name in names.values():
            self._line(name)
        on_event, send = simulation.monitor.on_event, network.send
        sent: dict[int, list[int]] = {}

        def look() -> None:
            for node_id, node in simulation.nodes.items():
                state = (2 if node.view.leads else 1) if node.up else 0
                self._state(world.now_us, names[node_id], int(node.view.term), state)

        def traced(node: Any, trace: Trace) -> None:
            look()
            term = trace.facts.get("term", -1)
            text = " ".join([trace.name, *(f"{name}={value}" for name, value in trace.facts.items())])
            self.events.append(
                (world.now_us, self._line(names[node.node_id]), text, term if isinstance(term, int) else -1)
            )
            if on_event is not None:
                on_event(node, trace)

        def sending(sender: Any, to: Any, message: Any, *, extra_us: int = 0) -> None:
            sent.setdefault(id(message), []).append(world.now_us)
            send(sender, to, message, extra_us=extra_us)

        class Arrivals:
            """Sits in front of a node, and sees what arrives."""

            def __init__(self, drawing: "Drawing", node_id: Any, inner: Any) -> None:
                self.drawing, self.node_id, self.inner = drawing, node_id, inner

            def on_message(self, sender: Any, message: Any) -> None:
                look()
                left = sent.get(id(message), [world.now_us])[0]
                lines = self.drawing._line(names[sender]), self.drawing._line(names[self.node_id])
                self.drawing.messages.append((left, world.now_us, *lines, type(message).__name__))
                self.inner.on_message(sender, message)

        simulation.monitor.on_event = traced
        network.send = sending  # type: ignore[method-assign]
        for node_id, inner in list(network.receivers.items()):
            network.receivers[node_id] = Arrivals(self, node_id, inner)


def page(drawing: Drawing, report: Report, *, command: str) -> str:
    """The page of a run that *drawing* has watched and that ended as *report* says."""
    data = {
        "nodes": list(drawing.nodes),
        "end": report.simulated_us,
        "messages": list(drawing.messages),
        "events": drawing.events,
        "states": drawing.states,
    }
    shown = report.violation or "Every promise was kept."
    # What stands in a script element must not end it.
    encoded = msgspec.json.encode(data).decode().replace("</", "<\\/")
    template = files("troth.rehearsal").joinpath("page.html").read_text(encoding="utf-8")
    for name, value in (
        ("TITLE", f"seed {report.seed}"),
        ("PLAN", report.described),
        ("VERDICT", shown),
        ("CLASS", "red" if report.violation else "green"),
        ("COMMAND", command),
        ("TAIL", "\n".join(report.last_events)),
    ):
        template = template.replace(f"@{name}@", escape(value))
    return template.replace("@DATA@", encoded)
