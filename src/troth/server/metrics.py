"""/metrics, /health, /livez and /version over HTTP, on an address of their own.

The responder speaks as much HTTP/1.1 as scrapers and load balancers need: GET and HEAD, one answer per request,
bounded headers, keep-alive. Nothing of a request but its first line is looked at.

Healthy is, as in etcd, a server that knows a leader while no alarm is raised: one that can only be read is not, unless
whoever asks says ``?exclude=NOSPACE``. That is for watching and for balancers. Restarting helps against neither, so who
restarts what is not well asks /livez: whether this process still answers.

Numbers are gathered at the moment of a scrape from the counters that the parts keep anyway; between scrapes metrics
cost nothing. prometheus-client writes the text and is imported only when a metrics address is configured.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, cast
from urllib.parse import parse_qs

import msgspec
from typing_extensions import override

from troth.kv.requests import AlarmType
from troth.replica.protocol import ServerStatus
from troth.runtime.links import TransportCounters
from troth.runtime.node import NodeCounters
from troth.runtime.writer import WriterCounters
from troth.server.clients import ClientCounters
from troth.server.tls import Certificates

if TYPE_CHECKING:
    from prometheus_client import Metric

REQUEST_BYTES_MAX = 8192
IDLE_SECONDS_MAX = 60.0
CONNECTIONS_MAX = 64


class Sources(msgspec.Struct, kw_only=True):
    """Where the numbers are. `queues` names each bounded queue and tells how full it is."""

    status: Callable[[], ServerStatus]
    quota_bytes: int
    node: NodeCounters
    peers: TransportCounters
    clients: ClientCounters
    disk: WriterCounters
    queues: Callable[[], Mapping[str, int]]
    operations: Callable[[], Mapping[str, int]]
    """Requests by kind (put, delete, ...; reads by level)."""
    snapshot_bytes: Callable[[], Mapping[str, int]]
    """Bytes by direction: saved, sent, received."""
    registers: Callable[[], Mapping[str, int]] = dict
    """What the acceptor of leaderless registers holds and has done; empty while there is none."""
    certificates: Certificates | None = None


_GAUGES: dict[str, tuple[str, Callable[[Sources, ServerStatus], float]]] = {
    "term": ("Term this server is in.", lambda sources, status: status.term),
    "is_leader": ("1 while this server leads.", lambda sources, status: int(status.leader == status.node_id)),
    "has_leader": ("1 while this server knows a leader.", lambda sources, status: int(bool(status.leader))),
    "commit_index": ("Highest log index known to be committed.", lambda sources, status: status.commit_index),
    "applied_index": ("Highest log index applied.", lambda sources, status: status.applied_index),
    "last_index": ("Highest log index in this server's log.", lambda sources, status: status.last_index),
    "first_index": ("Lowest log index still in the log.", lambda sources, status: status.first_index),
    "revision": ("Revision of the key space.", lambda sources, status: status.revision),
    "compact_revision": ("Revision below which history is gone.", lambda sources, status: status.compact_revision),
    "db_size_bytes": ("Bytes counted against the quota.", lambda sources, status: status.db_size_bytes),
    "quota_bytes": ("Beyond so many bytes writes are refused.", lambda sources, status: sources.quota_bytes),
    "sessions": ("Open exactly-once sessions.", lambda sources, status: status.sessions),
    "leases": ("Leases.", lambda sources, status: status.leases),
    "watches": ("Watches of this server's clients.", lambda sources, status: status.watches),
    "disk_sync_seconds_max": ("The slowest log write so far.", lambda sources, status: sources.disk.seconds_max),
    "ticks_late_max": (
        "The longest pause of this process, in ticks.",
        lambda sources, status: sources.node.ticks_late_max,
    ),
}

_COUNTERS: dict[str, tuple[str, Callable[[Sources], float]]] = {
    "turns": ("Turns of the event loop that did something.", lambda sources: sources.node.turns),
    "elections": ("Elections this server stood in.", lambda sources: sources.node.elections),
    "leaderships": ("Times this server became leader.", lambda sources: sources.node.leader_changes),
    "disk_syncs": ("Log syncs (fdatasync).", lambda sources: sources.disk.syncs),
    "disk_writes": ("Log writes; several may share a sync.", lambda sources: sources.disk.writes),
    "disk_sync_seconds": ("Seconds spent writing and syncing the log.", lambda sources: sources.disk.seconds),
    "peer_frames_sent": ("Frames sent to other servers.", lambda sources: sources.peers.frames_sent),
    "peer_bytes_sent": ("Bytes sent to other servers.", lambda sources: sources.peers.bytes_sent),
    "peer_frames_received": ("Frames from other servers.", lambda sources: sources.peers.frames_received),
    "peer_bytes_received": ("Bytes from other servers.", lambda sources: sources.peers.bytes_received),
    "peer_frames_dropped": (
        "Frames for peers that could not be queued.",
        lambda sources: sources.peers.frames_dropped,
    ),
    "peer_messages_refused": (
        "Messages with entries dropped while the disk hangs.",
        lambda sources: sources.node.peer_messages_refused,
    ),
    "peer_connects": ("Connections made to peers.", lambda sources: sources.peers.connects),
    "peer_suspicions": ("Times a peer's process was seen to be gone.", lambda sources: sources.peers.suspicions),
    "peer_garbage": (
        "Connections closed on the peer port for breaking the protocol.",
        lambda sources: sources.peers.garbage,
    ),
    "clients_accepted": ("Client connections accepted.", lambda sources: sources.clients.accepted),
    "clients_refused": ("Client connections refused.", lambda sources: sources.clients.refused),
    "clients_cut_off": ("Clients cut off for not reading.", lambda sources: sources.clients.cut_off),
    "client_garbage": (
        "Client connections closed for breaking the protocol.",
        lambda sources: sources.clients.garbage,
    ),
    "client_frames_received": ("Frames from clients.", lambda sources: sources.clients.frames_received),
    "client_frames_sent": ("Frames to clients.", lambda sources: sources.clients.frames_sent),
    "client_bytes_received": ("Bytes from clients.", lambda sources: sources.clients.bytes_received),
    "client_bytes_sent": ("Bytes to clients.", lambda sources: sources.clients.bytes_sent),
}


class Collector:
    """Turns the sources into Prometheus metrics, at every scrape."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator["Metric"]:
        """All metrics (prometheus-client's collector interface)."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        sources = self._sources
        status = sources.status()
        for name, (text, value_of) in _GAUGES.items():
            yield GaugeMetricFamily(f"troth_{name}", text, value=value_of(sources, status))
        if status.leader == status.node_id:  # nobody else hears of all others
            text = "How many more servers may fail, as the leader knows; -1: no quorum."
            yield GaugeMetricFamily("troth_survives_failures", text, value=status.survives)
            yield from _of_peers(status)
        raised = {each.alarm for each in status.alarms}
        alarms = GaugeMetricFamily("troth_alarm", "1 while the alarm is raised, 0 otherwise.", labels=["kind"])
        for kind in (AlarmType.NOSPACE, AlarmType.CORRUPT):
            alarms.add_metric([kind.name.lower()], int(kind in raised))
        yield alarms
        for name, (text, count_of) in _COUNTERS.items():
            yield CounterMetricFamily(f"troth_{name}", text, value=count_of(sources))
        for name, text, label, values in (
            ("operations", "Requests by kind.", "kind", sources.operations()),
            ("snapshot_bytes", "Bytes of snapshots by direction.", "direction", sources.snapshot_bytes()),
        ):
            family = CounterMetricFamily(f"troth_{name}", text, labels=[label])
            for key, count in values.items():
                family.add_metric([key], count)
            yield family
        if sources.certificates is not None:
            yield from _of_tls(sources.certificates)
        held = GaugeMetricFamily("troth_acceptor", "The acceptor of leaderless registers.", labels=["what"])
        for key, amount in sources.registers().items():
            held.add_metric([key], amount)
        yield held
        queues = GaugeMetricFamily("troth_queue_length", "What waits in each bounded queue.", labels=["queue"])
        for key, length in sources.queues().items():
            queues.add_metric([key], length)
        yield queues
        batches = HistogramMetricFamily("troth_disk_batch_writes", "Log writes covered by one sync.")
        batches.add_metric([], _buckets(sources.disk.batch_sizes), sources.disk.writes)
        yield batches


def _of_peers(status: ServerStatus) -> Iterator["Metric"]:
    from prometheus_client.core import GaugeMetricFamily

    behind = GaugeMetricFamily(
        "troth_peer_behind", "Committed entries that the leader does not know a member to have.", labels=["peer"]
    )
    heard = GaugeMetricFamily(
        "troth_peer_heard", "1 while the leader hears the member, 0 otherwise.", labels=["peer"]
    )
    for peer in status.peers:
        name = peer.member.name or f"{peer.node_id:x}"
        behind.add_metric([name], max(0, status.commit_index - max(0, peer.match)))
        heard.add_metric([name], int(bool(peer.active)))
    yield behind
    yield heard


def _of_tls(certificates: Certificates) -> Iterator["Metric"]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    text = "When this server's certificate ends (seconds since 1970)."
    yield GaugeMetricFamily("troth_certificate_ends_seconds", text, value=certificates.ends_at)
    text = "TLS handshakes begun by others that failed, by port and reason; none that they broke off without an alert."
    failed = CounterMetricFamily("troth_tls_handshakes_failed", text, labels=["port", "reason"])
    for (port, reason), count in certificates.failures.items():
        failed.add_metric([port, reason], count)
    yield failed


def _buckets(sizes: Mapping[int, int]) -> list[tuple[str, float]]:
    """Prometheus's cumulative buckets from counts by upper bound."""
    total = 0
    buckets: list[tuple[str, float]] = []
    for bound in sorted(sizes):
        total += sizes[bound]
        buckets.append((str(float(bound)), total))
    buckets.append(("+Inf", total))
    return buckets


class MetricsPort:
    """Answers HTTP requests about this server."""

    def __init__(self, sources: Sources, *, version: str) -> None:
        from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        registry = CollectorRegistry()
        registry.register(Collector(sources))
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=registry)
        self._page: Callable[[], bytes] = lambda: generate_latest(registry)
        self._page_type = CONTENT_TYPE_LATEST
        self._status = sources.status
        self._version = version
        self._connections: set[HttpConnection] = set()

    def accept(self) -> asyncio.Protocol:
        """Protocol factory of the metrics address."""
        return HttpConnection(self.answer, self._connections)

    def answer(self, target: str) -> tuple[int, str, bytes]:
        """(status code, content type, body) for a GET of *target*: a path and perhaps a query."""
        path, _, query = target.partition("?")
        if path == "/metrics":
            return 200, self._page_type, self._page()
        if path == "/version":
            return 200, "application/json", msgspec.json.encode({"troth": self._version})
        if path == "/livez":
            return 200, "text/plain", b"ok\n"
        if path == "/health":
            return self._health(excluded=parse_qs(query).get("exclude", []))
        return 404, "text/plain", b"there are /metrics, /health, /livez and /version\n"

    def _health(self, *, excluded: list[str]) -> tuple[int, str, bytes]:
        status = self._status()
        alarms = {each.alarm for each in status.alarms if each.alarm.name not in excluded}
        troubles = [alarm.text for alarm in sorted(alarms)]
        if not status.leader:
            troubles.append("no leader is known")
        well = not troubles
        view = {
            "health": "true" if well else "false",
            "reason": "; ".join(troubles),
            "role": status.role,
            "term": status.term,
            "revision": status.revision,
        }
        return 200 if well else 503, "application/json", msgspec.json.encode(view)


_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}


class HttpConnection(asyncio.Protocol):
    """Just enough HTTP/1.1."""

    def __init__(
        self, answer: Callable[[str], tuple[int, str, bytes]], connections: "set[HttpConnection]"
    ) -> None:
        """*connections*: all there are, this one included while it stands."""
        self._answer = answer
        self._connections = connections
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self._idle: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._connections) >= CONNECTIONS_MAX:
            self._transport.abort()
            return
        self._connections.add(self)
        self._wait()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self._idle is not None:
            self._idle.cancel()

    def _wait(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        if self._transport is not None:
            self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS_MAX, self._transport.abort)

    @override
    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        head, end, self._buffer = (self._buffer + data).partition(b"\r\n\r\n")
        if end:
            # One at a time: who asks on before having read the answer might keep the loop busy with answers alone.
            self._respond(head, closing=bool(self._buffer) or self._transport.get_write_buffer_size() > 0)
            return
        self._buffer = head
        if len(head) > REQUEST_BYTES_MAX:
            self._transport.abort()

    def _respond(self, head: bytes, *, closing: bool) -> None:
        line, _, headers = head.partition(b"\r\n")
        parts = line.split(b" ")
        closing = closing or b"connection: close" in headers.lower()
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            code, kind, body, closing = 400, "text/plain", b"this is not HTTP/1.1\n", True
        elif parts[0] not in (b"GET", b"HEAD"):
            code, kind, body, closing = 405, "text/plain", b"only GET\n", True
        else:
            code, kind, body = self._answer(parts[1].decode("ascii", "replace"))
        if self._transport is None:
            return
        self._transport.write(
            f"HTTP/1.1 {code} {_REASONS[code]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
            f"Connection: {'close' if closing else 'keep-alive'}\r\n\r\n".encode()
            + (b"" if parts[0] == b"HEAD" else body)
        )
        if closing:
            self._transport.close()
        else:
            self._wait()
