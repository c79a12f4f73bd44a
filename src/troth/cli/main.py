"""``troth``: the table of commands. Each command's module is imported when the command is used, not before."""

import errno
import importlib
import io
import os
import signal
import sys
from difflib import get_close_matches
from typing import NamedTuple

import click
from typing_extensions import override

from troth import __version__
from troth.cli.cluster import GIVEN_URL
from troth.cli.exit_codes import EXIT_INTERRUPTED, EXIT_UNKNOWN
from troth.cli.failures import CommandFailed
from troth.errors import TrothError, UsageError


class Entry(NamedTuple):
    """Where a command lives, and its line in ``troth --help`` (a test keeps it equal to the command's own)."""

    module: str
    name: str
    summary: str


COMMANDS: dict[str, dict[str, Entry]] = {
    "Start": {
        "up": Entry("troth.cli.up", "up", "Run a cluster on this machine until Ctrl-C."),
        "demo": Entry("troth.cli.demo", "demo", "Load real data, kill the leader, check that nothing is lost."),
        "serve": Entry("troth.cli.serve", "serve", "Run one server of a cluster."),
        "acceptor": Entry("troth.cli.acceptor", "acceptor", "Run one acceptor for `troth paxos` and PaxosClient."),
        "certs": Entry("troth.cli.certs", "certs", "Make certificates for a cluster: one CA, servers, a client."),
    },
    "Data": {
        "put": Entry("troth.cli.keys", "put", "Write VALUE under KEY."),
        "get": Entry("troth.cli.keys", "get", "Print the value of KEY."),
        "del": Entry("troth.cli.keys", "delete", "Delete KEY, or a span of keys."),
        "range": Entry("troth.cli.keys", "range_", "List a span of keys."),
        "watch": Entry("troth.cli.watch", "watch", "Print the changes of KEY as they happen, until Ctrl-C."),
        "txn": Entry("troth.cli.txn", "txn", "If all comparisons hold do one list of operations, else the other."),
        "lease": Entry("troth.cli.lease", "lease", "Leases: keys that go when nobody renews them."),
        "paxos": Entry(
            "troth.cli.paxos", "paxos", "Leaderless registers: single-decree Paxos, no log, no election."
        ),
        "load": Entry("troth.cli.load", "load", "Write the rows of a CSV or JSONL file."),
    },
    "Cluster": {
        "status": Entry("troth.cli.status", "status", "Say in one line how the cluster is."),
        "member": Entry("troth.cli.member", "member", "Add, remove, promote and list servers."),
        "transfer": Entry("troth.cli.member", "transfer", "Hand leadership to another server."),
        "compact": Entry("troth.cli.upkeep", "compact", "Forget history before REVISION."),
        "alarm": Entry("troth.cli.upkeep", "alarm", "List and clear alarms, such as a full space quota."),
        "snapshot": Entry(
            "troth.cli.snapshot", "snapshot", "Save keys, history and leases to a file; start anew from one."
        ),
        "bench": Entry("troth.cli.bench", "bench", "Measure this cluster from this process."),
    },
    "Databases": {
        "tx": Entry("troth.cli.tx", "tx", "Transactions over several databases: list, recover and resolve them."),
    },
    "Tools": {
        "ring": Entry("troth.cli.ring", "ring", "Consistent hashing: place keys, compare rings, plan a change."),
        "verify": Entry("troth.cli.verify", "verify", "Check a recorded history against a consistency model."),
        "simulate": Entry(
            "troth.cli.simulate",
            "simulate",
            "Run clusters in a world that loses messages, power and disk blocks, one for each seed.",
        ),
        "torture": Entry(
            "troth.cli.torture", "torture", "Break a real cluster on purpose and check every answer."
        ),
    },
}

_EPILOG = """\b
First steps:
  troth up                      a cluster of three on this machine
  troth put greeting hello      in another terminal
  troth get greeting
  troth status

\b
Exit codes: 0 done; 1 refused, nothing happened; 2 wrong usage, nothing was sent; 3 outcome unknown, it
may have happened; 4 unavailable, nothing happened, try again; 130 Ctrl-C, where that is not the way to end
(watch, up). `status` has its own: 0 healthy, 1 degraded, 2 unavailable. The cluster is found by --url, else
TROTH_URL, else the last `troth up` on this machine.
"""


_OTHER_WORDS = {
    "delete": "del",
    "rm": "del",
    "set": "put",
    "list": "range",
    "ls": "range",
    "scan": "range",
    "health": "status",
    "endpoint": "status",
    "move-leader": "transfer",
    "compaction": "compact",
    "start": "up",
}
"""What etcd's users, and others, may call a command."""


_IN_DOUBT = " What was under way may or may not have happened."
_ON_THEIR_OWN = ("demo", "simulate", "torture", "verify", "certs")
"""Commands that change no data but their own, of which nothing is in doubt when they are broken off."""

_WRITING_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def _incomplete(error: OSError) -> BaseException:
    """What ends the command when its output could not be written; *error* itself, where that is not the matter.

    The reader of a pipe may have seen enough (EPIPE): then click ends without a word.
    """
    if error.errno not in _WRITING_FAILED:
        return error
    click.echo(
        f"Error: {error.strerror}: the output is not complete (what was asked for may have happened)", err=True
    )
    return SystemExit(EXIT_UNKNOWN)


class LazyGroup(click.Group):
    """A group that knows its commands by name, and turns the library's errors into messages and exit codes."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for section in COMMANDS.values() for name in section]

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for section in COMMANDS.values():
            if cmd_name in section:
                entry = section[cmd_name]
                command = getattr(importlib.import_module(entry.module), entry.name)
                if not isinstance(command, click.Command):
                    raise TypeError(f"{entry.module}.{entry.name} is not a command")
                return command
        return None

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            meant = _OTHER_WORDS.get(args[0]) or (near[0] if near else "")
            if not meant:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{meant}'?", ctx) from None

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name not in ("--url", "--timeout", "--output", "-o"):
                raise
            hint = "Give it behind the command: troth get KEY --url URL"
            raise click.UsageError(f"{error.format_message()} {hint}", error.ctx) from None
        except OSError as error:  # --help and --version print in here
            raise _incomplete(error) from None

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.summary) for name, entry in section.items()])

    @override
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            if not error.option_name.lstrip("-")[:1].isdigit():
                raise
            hint = "A key or value that begins with '-' stands behind '--'."
            raise click.UsageError(f"{error.format_message()} {hint}", error.ctx) from None
        except TrothError as error:
            raise CommandFailed(error, ctx.invoked_subcommand or "", ctx.meta.get(GIVEN_URL, "")) from error
        except OSError as error:
            if error.filename is None:
                raise _incomplete(error) from None
            raise CommandFailed(
                UsageError(f"{error.filename}: {error.strerror}"), ctx.invoked_subcommand or ""
            ) from error
        except KeyboardInterrupt:
            in_doubt = "" if ctx.invoked_subcommand in _ON_THEIR_OWN else _IN_DOUBT
            click.echo(f"Interrupted.{in_doubt}", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None


@click.group(cls=LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="troth")
def cli() -> None:
    """Keeps data consistent on several machines while machines fail."""


def open_standard_streams() -> None:
    """Give a file to each standard stream that was closed when we were started (``>&-``).

    Else the first files and sockets that are opened get their numbers, and what is printed goes there. Input is empty;
    what is said is swallowed; an answer, which nobody could get, cannot be written.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free, which is this one.
            os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
        if getattr(sys, name) is None:
            # Without a buffer: what could not be written is not tried again at the end.
            raw = open(number, "wb" if number else "rb", buffering=0, closefd=False)  # noqa: SIM115  (for good)
            setattr(sys, name, io.TextIOWrapper(raw, write_through=True))


def end_in_order() -> None:
    """Take SIGTERM, and a terminal that goes, as a reason to clean up: servers, directories and networks are ours.

    `up` and `serve`, which end so anyway, have handlers of their own.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda which, _: sys.exit(128 + which))


def main() -> None:
    """The entry point of the ``troth`` command."""
    open_standard_streams()
    end_in_order()
    is_plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    cli.main(prog_name="troth", color=False if is_plain else None)
