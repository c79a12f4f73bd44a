"""What a server can be told, where it is told, and what is wrong with it.

Settings come from flags, from the environment (``TROTH_NAME``, ``TROTH_DATA_DIR``, ...) and from a TOML file, in
that order of precedence, under one set of names: those of `ServerConfig`. A wrong setting is a `UsageError` that
says which one, where it came from, and what to write instead.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from troth.core.engines import engine_kind
from troth.errors import UsageError
from troth.runtime.addresses import parse_address
from troth.server.tls import require_whole

ENVIRONMENT_PREFIX = "TROTH_"
LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
TICK_MS_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """One server's settings. Times are in the unit of their names.

    `peer_address` and `client_address` are what the others are told and dial; `peer_listen` and `client_listen`
    are what is bound, when that differs (behind NAT, in containers).
    """

    name: str
    data_dir: str
    client_address: str = "127.0.0.1:7001"
    peer_address: str = "127.0.0.1:7101"
    client_listen: str = ""
    peer_listen: str = ""
    initial_cluster: dict[str, str] = field(default_factory=dict)
    """Names and peer addresses of all first members, this one included. Empty, without `join` and `await_add`: a
    cluster of one."""
    join: tuple[str, ...] = ()
    """Client addresses of a running cluster that this server asks to be added to."""
    await_add: bool = False
    """Ask nobody, but wait until a running cluster is told to add this server (`Client.add_member`)."""

    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    insecure: bool = False
    """Allow addresses that other machines can reach without TLS."""
    tcp_only: bool = False
    """Offer no unix sockets beside loopback ports (runtime/shortcut.py)."""

    consensus: str = "raft"
    phase1_size: int = 0
    phase2_size: int = 0
    """Quorum sizes for consensus "paxos", where they shall not be majorities; both or none."""
    thrifty: bool = False
    """With consensus "paxos": as leader, send a write at once to only as many as choose it, to the others a heartbeat
    later."""
    tick_ms: int = 10
    heartbeat_ms: int = 50
    election_timeout_ms: int = 600
    lease_reads: bool = False
    salvage: bool = False

    quota_bytes: int = 2 << 30
    snapshot_entries: int = 100_000
    """A snapshot is taken, and the log before it dropped, after this many entries or `snapshot_log_bytes`; later
    if the state is larger than those bytes (replica/saving.py)."""
    snapshot_log_bytes: int = 64 << 20

    clients_max: int = 4096
    client_queue_bytes_max: int = 64 << 20

    metrics_address: str = ""
    log_level: str = "info"
    log_format: str = "text"
    trace_file: str = ""
    """Write what the consensus engine does to this file, for the executable specification (server/tracing.py)."""

    def __post_init__(self) -> None:
        # It names a directory, stands in lists and flags, and is printed.
        if self.name in ("", ".", "..") or not self.name.isprintable() or set(self.name) & set("=,/ "):
            raise UsageError(
                f"name {self.name!r} must not be empty, '.' or '..', nor contain '=', ',', '/', blanks or"
                " what can not be printed: for example n1"
            )
        if not self.data_dir:
            raise UsageError(
                "data_dir is missing: where shall this server keep its data? for example /var/lib/troth/n1"
            )
        for setting in ("client_address", "peer_address", "client_listen", "peer_listen", "metrics_address"):
            if getattr(self, setting):
                _checked_address(setting, getattr(self, setting))
        for name, address in self.initial_cluster.items():
            _checked_address(f"initial_cluster[{name}]", address)
        for address in self.join:
            _checked_address("join", address)
        self._check_cluster()
        self._check_numbers()
        self._check_consensus()
        require_whole(self)
        if self.log_level not in LOG_LEVELS:
            raise UsageError(f"log_level {self.log_level!r} must be one of {', '.join(LOG_LEVELS)}")
        if self.log_format not in LOG_FORMATS:
            raise UsageError(f"log_format {self.log_format!r} must be one of {', '.join(LOG_FORMATS)}")

    def _check_cluster(self) -> None:
        if bool(self.initial_cluster) + bool(self.join) + self.await_add > 1:
            raise UsageError(
                "give one of initial_cluster (a new cluster), join (a running one that is asked) and await_add (a "
                "running one that is told of this server)"
            )
        if self.initial_cluster and self.name not in self.initial_cluster:
            raise UsageError(
                f"initial_cluster names {', '.join(self.initial_cluster)}, but not this server, {self.name}: "
                f"add {self.name}={self.peer_address}"
            )
        if len(set(self.initial_cluster.values())) < len(self.initial_cluster):
            raise UsageError("two servers of initial_cluster have the same peer address")
        own = self.initial_cluster.get(self.name)
        if own is not None and own != self.peer_address:
            raise UsageError(
                f"initial_cluster gives {self.name} the peer address {own}, but peer_address is "
                f"{self.peer_address}: make them equal (use peer_listen to bind something else)"
            )

    def _check_numbers(self) -> None:
        if not 1 <= self.tick_ms <= TICK_MS_MAX:
            raise UsageError(f"tick_ms {self.tick_ms} must be 1 to {TICK_MS_MAX}")
        if 1000 % self.tick_ms:
            # The seconds of leases are counted in ticks: rounded, they would end early.
            raise UsageError(f"tick_ms {self.tick_ms} must divide a second; 5, 10, 20 and 50 do, for example")
        if not self.tick_ms <= self.heartbeat_ms < self.election_timeout_ms:
            raise UsageError(
                f"heartbeat_ms ({self.heartbeat_ms}) must be at least tick_ms ({self.tick_ms}) and below "
                f"election_timeout_ms ({self.election_timeout_ms}); ten times smaller is usual"
            )
        for setting in (
            "quota_bytes",
            "snapshot_entries",
            "snapshot_log_bytes",
            "clients_max",
            "client_queue_bytes_max",
        ):
            if getattr(self, setting) < 1:
                raise UsageError(f"{setting} must be above 0, not {getattr(self, setting)}")

    def _check_consensus(self) -> None:
        engine_kind(self.consensus)
        if self.consensus == "raft" and (self.phase1_size or self.phase2_size):
            raise UsageError("phase1_size and phase2_size are for consensus paxos; Raft's quorums are majorities")
        if self.consensus == "raft" and self.thrifty:
            raise UsageError("thrifty is for consensus paxos; Raft's log has no gaps, and goes to everybody")
        sizes = (self.phase1_size, self.phase2_size)
        if any(sizes) and min(sizes) < 1:
            raise UsageError(
                f"phase1_size and phase2_size go together, each above 0, not {sizes[0]} and {sizes[1]}"
            )

    @property
    def consensus_identity(self) -> str:
        """The engine with all that the servers of a cluster must agree about, as flags have it: quorums of other sizes
        need not meet these. In a server's identity, and in what it tells of itself, this is `consensus`."""
        if not self.phase1_size and not self.phase2_size:
            return self.consensus
        return f"{self.consensus} --phase1-size {self.phase1_size} --phase2-size {self.phase2_size}"

    @property
    def has_tls(self) -> bool:
        return bool(self.tls_ca)


def _checked_address(setting: str, text: str) -> None:
    try:
        address = parse_address(text)
    except UsageError as error:
        raise UsageError(f"{setting}: {error}") from None
    if not address.is_unix and not address.host:
        raise UsageError(f"{setting}: {text!r} names no host; write 0.0.0.0{text} to mean all of this machine's")


def load_config(
    flags: Mapping[str, object] | None = None,
    *,
    file: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> ServerConfig:
    """Settings out of *flags* (those that are not None), *environment* and a TOML *file*, in that order.

    Raises:
        UsageError: an unknown or impossible setting, or a file that can not be read.
    """
    merged: dict[str, object] = {}
    if file is not None:
        merged.update(_from_file(Path(file)))
    merged.update(_from_environment(environment or {}))
    for name, value in (flags or {}).items():
        if value is not None and value != () and value != {}:
            known = _known(name, "flag")
            merged[known] = _converted(known, value, f"flag {_flag(name)}")
    for needed in ("name", "data_dir"):
        if needed not in merged:
            raise UsageError(
                f"{needed} is missing: give {_flag(needed)}, set {ENVIRONMENT_PREFIX}{needed.upper()}, or write "
                "it into the configuration file"
            )
    own = merged.get("initial_cluster")
    if isinstance(own, dict) and "peer_address" not in merged and merged["name"] in own:
        merged["peer_address"] = own[merged["name"]]
    return ServerConfig(**cast("dict[str, str]", merged))  # type: ignore[arg-type]  # checked by _converted


def _from_file(path: Path) -> dict[str, object]:
    import tomllib  # a server process that its parent has configured never needs it

    try:
        with path.open("rb") as opened:
            table = tomllib.load(opened)
    except OSError as error:
        raise UsageError(f"the configuration file can not be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    origin = str(path)
    return {(known := _known(name, origin)): _converted(known, value, origin) for name, value in table.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for field_name in _FIELDS:
        variable = ENVIRONMENT_PREFIX + field_name.upper()
        if environment.get(variable):
            found[field_name] = _converted(field_name, environment[variable], f"variable {variable}")
    return found


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


_FIELDS: dict[str, object] = {
    each.name: (each.default if each.default is not dataclasses.MISSING else None)
    for each in dataclasses.fields(ServerConfig)
}


def _known(name: str, origin: str) -> str:
    plain = name.replace("-", "_")
    if plain in _FIELDS:
        return plain
    from difflib import get_close_matches  # only an error needs it

    near = get_close_matches(plain, _FIELDS, n=1)
    advice = f"did you mean {near[0]}?" if near else f"there are: {', '.join(_FIELDS)}"
    raise UsageError(f"{origin}: no setting is called {name!r}; {advice}")


def _converted(name: str, value: object, origin: str) -> object:
    """*value* as the type that the setting *name* has."""
    default = _FIELDS[name]
    if name == "initial_cluster":
        return _members(value, origin)
    if name == "join":
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            raise UsageError(
                f"{origin}: join is a list of client addresses, for example 10.0.0.1:7001,10.0.0.2:7001"
            )
        return tuple(part.strip() for part in parts if part.strip())
    if isinstance(default, bool):
        return _truth(name, value, origin)
    if isinstance(default, int):
        return _number(name, value, origin)
    if not isinstance(value, str):
        raise UsageError(f"{origin}: {name} is a text, not {value!r}")
    return value


def _members(value: object, origin: str) -> dict[str, str]:
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if not all(equals for _, equals, _ in pairs):
            raise UsageError(f"{origin}: write initial_cluster as n1=host1:7101,n2=host2:7101, not {value!r}")
        members = {name.strip(): address.strip() for name, _, address in pairs}
        if len(members) < len(pairs):
            raise UsageError(f"{origin}: initial_cluster names a server twice")
        return members
    if isinstance(value, dict) and all(isinstance(item, str) for pair in value.items() for item in pair):
        return dict(value)
    raise UsageError(f"{origin}: initial_cluster maps names to peer addresses, not {value!r}")


def _truth(name: str, value: object, origin: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on"):
        return True
    if isinstance(value, str) and value.lower() in ("0", "false", "no", "off"):
        return False
    raise UsageError(f"{origin}: {name} is true or false, not {value!r}")


_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
SIZES = "a number of bytes, also 512MiB, 2G or 1TB (K, M, G, T: powers of 1024)"


def size_of(text: str) -> int | None:
    """The bytes that *text* stands for; None: for none."""
    text = text.strip().lower().removesuffix("b").removesuffix("i")
    unit = 1
    if text[-1:] in _UNITS:
        unit = _UNITS[text[-1]]
        text = text[:-1]
    return int(text) * unit if text.isascii() and text.isdigit() else None


def _number(name: str, value: object, origin: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    is_size = name.endswith(("_bytes", "_bytes_max"))
    if isinstance(value, str):
        text = value.strip()
        number = size_of(text) if is_size else int(text) if text.isascii() and text.isdigit() else None
        if number is not None:
            return number
    raise UsageError(f"{origin}: {name} is {SIZES if is_size else 'a whole number'}, not {value!r}")
