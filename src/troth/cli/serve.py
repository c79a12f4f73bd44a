"""serve: one server of a cluster, told by flags, the environment or a TOML file."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import click

from troth.server.config import ServerConfig, load_config

_HELP = {
    "name": "This server's name in its cluster, for example n1.",
    "data_dir": "Where this server keeps its data.",
    "client_address": "Where clients reach this server.",
    "peer_address": "Where the other servers reach it.",
    "client_listen": "What to bind for clients, if it is another address.",
    "peer_listen": "What to bind for servers, if it is another address.",
    "initial_cluster": "First members of a new cluster: n1=host1:7101,n2=host2:7101,n3=host3:7101.",
    "join": "Client addresses of a running cluster that this server shall be added to.",
    "await_add": "Join the running cluster that is told to by `troth member add`, and wait until then.",
    "tls_ca": "The CA that signed everybody's certificates (`troth certs` makes a set).",
    "tls_cert": "This server's certificate.",
    "tls_key": "Its key.",
    "insecure": "Allow addresses that other machines can reach without TLS.",
    "tcp_only": "Offer no unix sockets beside loopback ports to processes of this user.",
    "consensus": "Which protocol keeps the log: raft or paxos; the same on all servers, and for ever.",
    "phase1_size": "Paxos: how many voters must promise before a server leads (with phase2-size; their sum > voters).",
    "phase2_size": "Paxos: how many voters must accept a write.",
    "thrifty": "Paxos: a leader sends a write at once to as many as must accept it, to the rest a heartbeat later.",
    "tick_ms": "How long a tick lasts; it divides a second.",
    "heartbeat_ms": "How often a leader says that it lives.",
    "election_timeout_ms": "How long a silent leader is waited for.",
    "salvage": "Keep the intact part of a damaged log and fetch the rest from the others; no vote before it is whole.",
    "lease_reads": "Serve linearizable reads from the leader's lease: faster, trusts clocks to run at about one speed.",
    "quota_bytes": "Refuse writes when the data is larger (also 512MiB, 2GiB, 1TiB).",
    "snapshot_entries": "Take a snapshot and drop the log before it after this many entries.",
    "snapshot_log_bytes": "The same after this many bytes; 8 times both where the state is large.",
    "clients_max": "How many clients may be connected.",
    "client_queue_bytes_max": "How much may wait for one client that reads slowly.",
    "metrics_address": "Serve /metrics, /health and /livez over HTTP here, for example 127.0.0.1:7201.",
    "log_level": "debug, info, warning or error.",
    "log_format": "text or json.",
    "trace_file": "Write each step of the consensus engine here, for the executable specification; costs speed.",
}


def _with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """One flag for each field of `ServerConfig`, in its order."""
    for field in reversed(dataclasses.fields(ServerConfig)):
        flag = "--" + field.name.replace("_", "-")
        text = _HELP[field.name]
        if isinstance(field.default, bool):
            command = click.option(flag, field.name, is_flag=True, default=None, help=text)(command)
            continue
        if field.default not in (dataclasses.MISSING, "", ()):
            text += f"  [default: {field.default}]"
        command = click.option(flag, field.name, metavar="TEXT", help=text)(command)
    return command


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="A TOML file with any of the settings below.")
@_with_settings
def serve(config: Path | None, **flags: object) -> None:
    """Run one server of a cluster.

    Each setting may also stand in the TOML file under its name with underscores, or in the environment as
    TROTH_NAME, TROTH_DATA_DIR and so on. A flag wins over the environment, the environment over the file.

    Exit codes: 0 stopped by SIGTERM or Ctrl-C; 1 failed; 2 a wrong setting; 3 the disk, or another process has the
    data directory; 4 the data directory is not this server's, or not of the cluster that the settings ask for; 5
    removed from the cluster; 70 a bug. The last line of the log says why.

    --initial-cluster, --join and --await-add count when the data directory is new. A server that is started again
    with what asks for another cluster than its own says so, and stops if it is the only member of its own.

    Certificates are read at the start, and again at SIGHUP, for connections that are made from then on; bad ones are
    refused at the start, and change nothing later. The log and /metrics tell of handshakes that fail, and of a
    certificate that ends within 30 days. Handshakes that the other side breaks off without a word are not seen there:
    clients on asyncio do so if they do not accept this server's certificate, and say so themselves.

    \b
    Examples:
      troth serve --name n1 --data-dir /var/lib/troth/n1          a cluster of one
      troth serve --name n1 --data-dir /var/lib/troth/n1 --client-address 10.0.0.1:7001 \\
        --initial-cluster n1=10.0.0.1:7101,n2=10.0.0.2:7101,n3=10.0.0.3:7101 \\
        --tls-ca ca.pem --tls-cert n1.pem --tls-key n1.key
      troth serve --config /etc/troth.toml
      troth serve --name n4 --data-dir /var/lib/troth/n4 --client-address 10.0.0.4:7001 \\
        --peer-address 10.0.0.4:7101 --join 10.0.0.1:7001          then: troth member list
    """
    from troth.server.serve import serve as run

    run(load_config(flags, file=config, environment=os.environ))
