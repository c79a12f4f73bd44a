"""Real database servers for tests, benchmarks and examples: PostgreSQL and MariaDB, started in temporary directories.

Each server is a child of this process, listens on a loopback port that was free and on a Unix socket in its own
directory, syncs what it commits, and is gone when it is closed, or when this process dies. It can be killed as power
failure would kill it, and started again on the same port and data::

    with PostgresServer() as bank, MariaDBServer() as ledger:
        engine = sqlalchemy.create_engine(bank.url("psycopg"))
        bank.kill()
        bank.start()

Both servers refuse to run as root, so under root they run as ``nobody``. The binaries are the system's; where they are
missing, the error says what to install.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, ClassVar, Final, Self

from typing_extensions import override

from troth.errors import TrothError, UsageError
from troth.server.free_port import free_port

USER: Final = "troth"
DATABASE: Final = "troth"
START_S_MAX: Final = 60.0
CONNECTIONS_MAX: Final = 200


class DatabaseFailed(TrothError):
    """A database server did not start, or its binary is missing; the text ends with its log or what to install."""

    code = "database"


class DatabaseServer(ABC):
    """One server. `start`, `kill` and `stop` may be repeated; the data stays until `close`.

    The kernel ends the server when the thread that called `start` ends (so that no server survives a test run that
    was killed): start it from a thread that lives as long as the server should.
    """

    drivers: ClassVar[Mapping[str, str]]
    """name of a driver -> dialect of SQLAlchemy's URL"""

    def __init__(self, *, environment: Mapping[str, str] | None = None) -> None:
        """
        Args:
            environment: set for the server process on top of this process's own.

        Raises:
            DatabaseFailed: the server's binaries are not installed.
        """
        self._environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC", **(environment or {})}
        self._prefix = _privileges_dropped()
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._prepared = False
        self._locate()
        self.directory = Path(tempfile.mkdtemp(prefix="troth-db-"))
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)

    def url(self, driver: str | None = None) -> str:
        """SQLAlchemy's URL of the one database of this server, over TCP.

        Raises:
            UsageError: this server has no such driver.
        """
        name = next(iter(self.drivers)) if driver is None else driver
        if name not in self.drivers:
            raise UsageError(f"no driver {name!r} here; there are {', '.join(self.drivers)}")
        return f"{self.drivers[name]}://{USER}@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def pid(self) -> int:
        """Process id of the running server.

        Raises:
            UsageError: it is not running.
        """
        if self._process is None:
            raise UsageError("this database server is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the server, and return once it accepts connections. Its data is made at the first start.

        Raises:
            DatabaseFailed: it did not start.
        """
        if self._process is not None and self._process.poll() is None:
            return
        if not self._prepared:
            self._prepare()
            self._prepared = True
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            with (self.directory / "log").open("ab") as log:
                self._process = self._spawn(self._command(), log)
            while self._process.poll() is None and time.monotonic() < deadline:
                if self._ready():
                    return
                time.sleep(0.01)
            # After a kill the old server's children may hold its lock for a moment longer: try again.
            time.sleep(0.05)
        self.kill()
        raise DatabaseFailed(f"{type(self).__name__} did not start:\n{self.log()[-2000:]}")

    def kill(self) -> None:
        """End it as a power failure would: SIGKILL, no word to anybody."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order, whatever clients are connected."""
        self._end(self._stop_signal)

    def pause(self) -> None:
        """SIGSTOP: the process that accepts connections answers nobody."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def log(self) -> str:
        """What the server wrote."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """Stop the server and remove its data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()  # nobody else will: the block is not entered
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spawn(self, command: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self._prefix, *command],
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _run(self, command: Sequence[str]) -> None:
        """Run *command* to its end, as the server's user."""
        done = subprocess.run(
            [*self._prefix, *command],
            cwd=self.directory,
            env={**self._environment, "LD_PRELOAD": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise DatabaseFailed(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-2000:]}")

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.send_signal(number)
            try:
                process.wait(START_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()

    _stop_signal: ClassVar[int] = signal.SIGTERM

    @abstractmethod
    def _locate(self) -> None:
        """Find the binaries."""

    @abstractmethod
    def _prepare(self) -> None:
        """Make the data directory."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The server in the foreground."""

    @abstractmethod
    def _ready(self) -> bool:
        """Whether the process started last accepts connections."""


class PostgresServer(DatabaseServer):
    """PostgreSQL with prepared transactions allowed. Its only user is ``troth``, a superuser without a password."""

    drivers = {
        "psycopg": "postgresql+psycopg",
        "psycopg2": "postgresql+psycopg2",
        "asyncpg": "postgresql+asyncpg",
    }
    _stop_signal = signal.SIGINT  # "fast": clients are disconnected

    def __init__(self, *, environment: Mapping[str, str] | None = None, **settings: object) -> None:
        """
        Args:
            settings: of postgresql.conf, for example ``max_prepared_transactions=0``.
        """
        super().__init__(environment=environment)
        self._settings: dict[str, object] = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.directory),
            "max_connections": CONNECTIONS_MAX,
            "max_prepared_transactions": CONNECTIONS_MAX,
            "shared_buffers": "32MB",
            "fsync": "on",
            **settings,
        }

    @override
    def _locate(self) -> None:
        versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))
        found = shutil.which("postgres", path=os.pathsep.join([*map(str, reversed(versions)), _path()]))
        if found is None:
            raise DatabaseFailed("PostgreSQL is not installed: make databases (or apt-get install postgresql)")
        self._binaries = Path(found).parent

    @override
    def _prepare(self) -> None:
        data, initdb = str(self.directory / "data"), str(self._binaries / "initdb")
        self._run([initdb, "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"])
        single = [str(self._binaries / "postgres"), "--single", "-D", data, "-c", "fsync=off", "postgres"]
        script = f"create database {DATABASE}"
        self._run(["sh", "-c", 'echo "$0" | "$@" >/dev/null', script, *single])

    @override
    def _command(self) -> list[str]:
        words = [str(self._binaries / "postgres"), "-D", str(self.directory / "data"), "-p", str(self.port)]
        for name, value in self._settings.items():
            words += ["-c", f"{name}={value}"]
        return words

    @override
    def _ready(self) -> bool:
        # The last line of the file says so; the first names the process, since the file of a killed server stays.
        with contextlib.suppress(FileNotFoundError):
            lines = (self.directory / "data" / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"
        return False


class MariaDBServer(DatabaseServer):
    """MariaDB without a binary log. Its user ``troth`` may do everything and has no password."""

    drivers = {
        "pymysql": "mysql+pymysql",
        "mysqldb": "mysql+mysqldb",
        "aiomysql": "mysql+aiomysql",
        "asyncmy": "mysql+asyncmy",
    }

    def __init__(self, *, environment: Mapping[str, str] | None = None, **settings: object) -> None:
        """
        Args:
            settings: of my.cnf with underscores, for example ``innodb_lock_wait_timeout=3``.
        """
        super().__init__(environment=environment)
        self._settings: dict[str, object] = {
            "bind_address": "127.0.0.1",
            "max_connections": CONNECTIONS_MAX,
            "skip_name_resolve": 1,
            "innodb_flush_log_at_trx_commit": 1,
            "innodb_buffer_pool_size": "64M",
            "innodb_log_file_size": "32M",
            **settings,
        }

    @override
    def _locate(self) -> None:
        places = os.pathsep.join([_path(), "/usr/sbin", "/usr/libexec"])
        server = shutil.which("mariadbd", path=places)
        if server is None:
            raise DatabaseFailed(
                "MariaDB is not installed: make databases (or apt-get install mariadb-server-core)"
            )
        self._server = server

    @override
    def _prepare(self) -> None:
        # What mariadb-install-db does, without the client programs that it needs for it.
        scripts = "mysql_system_tables.sql mysql_performance_tables.sql mysql_system_tables_data.sql"
        (self.directory / "begin.sql").write_text(
            "create database mysql;\nuse mysql;\nset @auth_root_socket = null;\n"
        )
        (self.directory / "end.sql").write_text(
            f"flush privileges;\ncreate database {DATABASE};\n"
            f"create user {USER}@'%' identified by '';\ngrant all on *.* to {USER}@'%' with grant option;\n"
        )
        data = self.directory / "data"
        self._run(["mkdir", str(data)])
        words = [self._server, "--no-defaults", "--bootstrap", f"--datadir={data}", "--enforce-storage-engine="]
        words += ["--log-warnings=0", "--max-allowed-packet=8M", "--innodb-flush-log-at-trx-commit=0"]
        words += [f"--innodb-log-file-size={self._settings['innodb_log_file_size']}"]
        joined = f'here=$PWD; cd /usr/share/mysql && cat "$here/begin.sql" {scripts} "$here/end.sql" | "$@"'
        self._run(["sh", "-c", joined, "sh", *words])

    @override
    def _command(self) -> list[str]:
        words = [self._server, "--no-defaults", f"--datadir={self.directory / 'data'}", f"--port={self.port}"]
        words += [f"--socket={self.directory / 'sock'}", f"--pid-file={self.directory / 'pid'}"]
        return [*words, *(f"--{name}={value}" for name, value in self._settings.items())]

    @override
    def _ready(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as connection:
            # Its greeting: a packet whose body begins with the protocol's version, 10.
            connection.settimeout(5.0)
            return connection.recv(5)[4:] == b"\n"
        return False


def _path() -> str:
    return os.environ.get("PATH", os.defpath)


def _privileges_dropped() -> list[str]:
    """Words before a command: as ``nobody`` if we are root, and never longer than we live."""
    setpriv = shutil.which("setpriv", path=_path() + os.pathsep + "/usr/bin")
    if setpriv is None:
        if os.geteuid() == 0:
            raise DatabaseFailed(
                "setpriv is missing, and a database does not run as root: apt-get install util-linux"
            )
        return []
    words = [setpriv, "--pdeathsig", "KILL"]
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        words += [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    return [*words, "--"]
