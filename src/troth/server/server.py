"""One server, put together: data directory, cluster, replica, ports. Everything of it runs in one process.

Start-up order. The directory is locked first (it says who we are) and all ports are taken, so that a server that could
not serve has written nothing and joined nobody. Then the peer port opens, since a new cluster's servers ask each other
who they are there; once the cluster is known the log is recovered, the replica starts, and last of all clients are let
in.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from troth.core.engines import engine_kind
from troth.core.interface import Membership, Trace
from troth.errors import IdentityLost, InvariantViolation, RequestError
from troth.ids import NodeId
from troth.replica.protocol import ServerStatus
from troth.runtime.disk_machine import Directory
from troth.runtime.genesis import Founding, encode_introduction
from troth.runtime.joining import Invitation
from troth.runtime.machine import Machine
from troth.runtime.newborn import remove_newborn
from troth.runtime.node import Node, peer_addresses
from troth.runtime.snapshots import SnapshotKeeper
from troth.runtime.transport import PeerTransport
from troth.runtime.writer import LogWriter
from troth.server.acceptors import Registers
from troth.server.belonging import (
    Early,
    Reception,
    advice,
    check_asked_for,
    check_known_here,
    introduction,
    node_id_of,
    settled,
)
from troth.server.clients import ClientPort
from troth.server.config import ServerConfig
from troth.server.listener import Port, bind_all, check_addresses
from troth.server.observed import Observed, tell, tell_serving
from troth.server.recovering import recovered_replica, warn_of_amnesia
from troth.server.tls import Certificates
from troth.storage import identity as identities
from troth.storage.directory import DataDirectory, open_directory
from troth.storage.identity import Identity

if TYPE_CHECKING:  # both are loaded only when the settings ask for them
    from troth.server.metrics import MetricsPort
    from troth.server.tracing import TracedEngine

Part = TypeVar("Part")

TRANSFER_SECONDS_MAX = 1.0

VERSION: str = import_module("troth").__version__
"""Looked up by name: to import the root package is, for the layers' check, to import all that it re-exports."""

_log = logging.getLogger("troth.server")


class Server:
    """A running server. `failed` ends (with an error) when it can not go on."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        founding: Founding | None = None,
        ends: Mapping[NodeId, socket.socket] | None = None,
        on_event: Callable[[Trace], None] | None = None,
        machine: Machine | None = None,
    ) -> None:
        """*founding* replaces the search for the other first servers; *ends* are inherited sockets to peers."""
        self.config = config
        self._machine = machine or Machine()
        self._founding = founding
        self._ends = dict(ends or {})
        self._on_event = on_event
        self._checking: asyncio.Task[None] | None = None
        self._ports: dict[str, Port] = {}
        """By the setting that says where."""
        self._files: Directory | None = None
        self._directory: DataDirectory | None = None
        self._keeper: SnapshotKeeper | None = None
        self._writer: LogWriter | None = None
        self._registers: Registers | None = None
        self._clock = self._machine.clock(config.tick_ms)
        self._follows = asyncio.Event()
        """Set whenever this server becomes a follower."""
        self.certificates: Certificates | None = None
        self._transport: PeerTransport | None = None
        self._node: Node | None = None
        self._clients: ClientPort | None = None
        self._observed: Observed | None = None
        self._metrics: MetricsPort | None = None

    @property
    def transport(self) -> PeerTransport:
        """The links to the other servers; there once the data directory has said who this one is."""
        return _there(self._transport)

    @property
    def node(self) -> Node:
        """There once this server knows its cluster and has recovered its log; see `has_node`."""
        return _there(self._node)

    @property
    def has_node(self) -> bool:
        """Whether the start has come as far as `node`."""
        return self._node is not None

    @property
    def clients(self) -> ClientPort:
        """The clients' port; there with `node`."""
        return _there(self._clients)

    @property
    def observed(self) -> Observed:
        """Its counters and queues; there with `node`."""
        return _there(self._observed)

    @property
    def failed(self) -> "asyncio.Future[None]":
        """Ends, with an error, when this server can not go on."""
        return self.node.failed

    def status(self) -> ServerStatus:
        """What this server knows."""
        return self.node.status()

    # -- start -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Return once clients are served.

        Raises:
            UsageError: a setting or an address is wrong.
            StorageError: the data directory can not be used, or is not this server's.
            WrongCluster: the others do not know this server.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        config = self.config
        check_addresses(config)
        certificates = self.certificates = Certificates.of(config)
        files = self._files = self._machine.directory(config.data_dir)
        if config.trace_file:  # which may stand in the data directory
            from troth.server.tracing import check_writable

            check_writable(config.trace_file)
        known = identities.load(files)
        check_known_here(config, known)
        # Who accepts there is made later.
        self._ports = await bind_all(
            config,
            certificates,
            peers=lambda: self.transport.accept(),
            clients=lambda: self.clients.accept(),
            early_clients=Reception(config.name, lambda visitor: self.transport.introduce(visitor)).accept,
            metrics=lambda: _there(self._metrics).accept(),
        )
        node_id = node_id_of(files, known, founding=self._founding, chance=self._machine.chance)
        transport = self._transport = self._machine.transport(
            node_id=node_id, name=config.name, sink=Early(), tls=self._dialing()
        )
        me = introduction(config, node_id, known)
        transport.answer_probe = lambda: encode_introduction(me)
        invitation = Invitation()
        transport.called_early = invitation.on_called
        if "peer_listen" in self._ports:
            self._ports["peer_listen"].open()
        who = known or await settled(config, me, founding=self._founding, tls=self._dialing, invitation=invitation)
        directory = self._recover(files, who)
        membership = self._assemble(who, directory, transport)
        if directory.recovered.amnesia is not None:
            warn_of_amnesia(self.node.replica.engine.status())
        transport.answer_probe = lambda: encode_introduction(
            introduction(config, node_id, who, self.node.membership)
        )
        if known is not None:
            await self._check_asked_for(known, membership)
        await self._let_in()
        self._machine.settle()
        tell_serving(config, who, version=VERSION, took_s=loop.time() - began)

    def _dialing(self) -> ssl.SSLContext | None:
        """What connections to others are made with: they may be exchanged while others are waited for."""
        return None if self.certificates is None else self.certificates.dialing

    def _recover(self, files: Directory, who: Identity) -> DataDirectory:
        """Open what *files* hold of the log; refuse what may have forgotten a vote."""
        directory = self._directory = open_directory(
            files, who, segment_bytes=self._machine.segment_bytes, salvage=self.config.salvage
        )
        recovered = directory.recovered
        if recovered.amnesia is not None and recovered.amnesia.hard_state_lost:
            raise IdentityLost(
                "this server has lost its last term and vote with a part of its log, so it may have promised what it "
                "does not know of. It must come back as a new one, with an empty data directory. "
                f"{advice(self.config)}"
            )
        remove_newborn(files)
        if recovered.damaged is not None:
            _log.warning("the log was damaged: %s", recovered.damaged.text)
        return directory

    def _assemble(self, who: Identity, directory: DataDirectory, transport: PeerTransport) -> Membership:
        """Make all parts of the server; the membership in force, as far as its log knows."""
        replica, tracer = recovered_replica(
            self.config, who, directory, machine=self._machine, now=self._clock.now, version=VERSION
        )
        transport.cluster_id = who.cluster_id
        node = self._node = Node(
            node_id=who.node_id,
            name=self.config.name,
            cluster_id=who.cluster_id,
            replica=replica,
            codec=self._machine.codec(engine_kind(self.config.consensus).messages),
            transport=transport,
            clock=self._clock,
            on_event=self._tell,
        )
        transport.sink = node
        writer, keeper = self._disk(node, directory, tracer)
        node.clients, registers = self._client_port(node, who)
        self._observed = Observed(
            node=node,
            transport=transport,
            clients=node.clients,
            writer=writer,
            keeper=keeper,
            registers=registers,
        )
        membership = node.membership = replica.engine.status().membership
        transport.set_peers(peer_addresses(membership, who.node_id))
        transport.refuse_stranger = node.refuse_stranger
        transport.accept_peers = True
        node.start(writer=writer, snapshots=keeper)
        return membership

    def _disk(
        self, node: Node, directory: DataDirectory, tracer: "TracedEngine | None"
    ) -> tuple[LogWriter, SnapshotKeeper]:
        """The threads that write the log, and snapshots."""
        post = asyncio.get_running_loop().call_soon_threadsafe
        writer = self._writer = self._machine.writer(
            log=directory.log,
            post=post,
            on_durable=node.on_durable if tracer is None else tracer.before(node.on_durable),
            on_failed=node.fail,
        )
        keeper = self._keeper = SnapshotKeeper(
            replica=node.replica,
            store=directory.snapshots,
            log=directory.log,
            writer=writer,
            worker=self._machine.worker("troth-snapshots", lambda error: post(node.fail, error)),
            now=self._clock.now,
            wake=node.after_work,
            fail=node.fail,
            after_turn=self._machine.after_turn,
        )
        return writer, keeper

    def _client_port(self, node: Node, who: Identity) -> tuple[ClientPort, Registers]:
        """The port of clients, and the acceptor of registers behind it."""
        registers = self._registers = Registers(
            self.config.data_dir,
            machine=self._machine,
            failed=node.fail,
            bytes_max=self.config.quota_bytes,
            came_late=not who.genesis.is_member(who.node_id),
        )
        node.replica.acceptor_numbers = registers.numbers
        clients = self._clients = ClientPort(
            node=node,
            connections_max=self.config.clients_max,
            queue_bytes_max=self.config.client_queue_bytes_max,
            registers=registers,
        )
        clients.introduce = self.transport.introduce
        return clients, registers

    async def _check_asked_for(self, known: Identity, present: Membership) -> None:
        """See `check_asked_for`. A server that others may wait for does not wait for those whom that asks."""
        checking = check_asked_for(self.config, known, present, tls=self._dialing())
        if present.everyone() == (known.node_id,):
            await checking
        else:
            self._checking = asyncio.get_running_loop().create_task(checking)

    async def _let_in(self) -> None:
        for peer, end in self._ends.items():
            await self.transport.adopt(peer, end)
        self._ports["client_listen"].open()
        if self.config.metrics_address:
            from troth.server.metrics import MetricsPort, Sources

            observed = self.observed
            sources = Sources(
                status=self.status,
                quota_bytes=self.config.quota_bytes,
                node=observed.node.counters,
                peers=observed.transport.counters,
                clients=observed.clients.counters,
                disk=observed.writer.counters,
                queues=observed.queues,
                operations=observed.clients.counters.operations,
                snapshot_bytes=observed.snapshot_bytes,
                registers=observed.registers.numbers,
                certificates=self.certificates,
            )
            self._metrics = MetricsPort(sources, version=VERSION)
            self._ports["metrics_address"].open()

    # -- while it runs ---------------------------------------------------------------------------------------

    def _tell(self, event: Trace) -> None:
        if event.name == "follower":
            self._follows.set()
        tell(event)
        if self._on_event is not None:
            self._on_event(event)

    def reload(self) -> None:
        """Read the certificates anew, for connections that are made from now on."""
        if self.certificates is None:
            _log.info("asked to read certificates anew; there are none, and nothing else is read anew")
            return
        self.certificates.reload()
        if self._transport is not None:
            self._transport.tls = self.certificates.dialing

    async def adopt(self, peer: NodeId, end: socket.socket) -> None:
        """Talk to *peer* over a new socket pair."""
        await self.transport.adopt(peer, end)

    def transfer(self, target: NodeId) -> None:
        """Begin to hand leadership to *target* (0: whoever is most up to date).

        Raises:
            NotLeader: this server does not lead.
            Unavailable: the target can not take over.
        """
        self.node.transfer(target)

    # -- stop ------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Hand leadership over if we have it, answer what is answered, make durable what is queued, close."""
        for port in self._ports.values():
            port.close()
        if self._checking is not None:
            self._checking.cancel()
        if self._node is not None and not self._node.failed.done():
            await self._step_aside()
        if self._clients is not None:
            self._clients.close()
        if self._node is not None:
            self._node.stop()
        if self._transport is not None:
            self._transport.close()
        loop = asyncio.get_running_loop()
        if self._registers is not None:
            await loop.run_in_executor(None, self._registers.stop)
        if self._keeper is not None:
            await loop.run_in_executor(None, self._keeper.stop)
        if self._writer is not None and await loop.run_in_executor(None, self._writer.stop) and self._directory:
            self._directory.close()
        if self._files is not None:
            self._files.close()
        _log.info("stopped")

    async def _step_aside(self) -> None:
        status = self.status()
        if status.leader != self.node.node_id or len(status.peers) < 2:
            return
        self._follows.clear()
        try:
            self.transfer(NodeId(0))
        except RequestError as error:
            _log.info("leadership is not handed over (%s)", error)
            return
        try:
            await asyncio.wait_for(self._follows.wait(), TRANSFER_SECONDS_MAX)
        except TimeoutError:
            _log.info("nobody took leadership over in time")


def _there(part: Part | None) -> Part:
    """*part*, by whoever knows that the start has come so far."""
    if part is None:
        raise InvariantViolation("the server has not started so far")
    return part
