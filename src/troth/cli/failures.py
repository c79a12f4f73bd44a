"""From an error to what a person needs: the cause, the next command to try, and an exit code for scripts."""

import re
import shlex
from typing import IO, Any

import click
from typing_extensions import override

from troth import errors
from troth.cli.exit_codes import EXIT_REFUSED, EXIT_UNAVAILABLE, EXIT_UNKNOWN, EXIT_USAGE
from troth.errors import TrothError

_ADVICE: dict[type[TrothError], tuple[int, str]] = {
    errors.AddressTaken: (EXIT_USAGE, "ss -ltnp              (who listens there?)"),
    errors.UsageError: (EXIT_USAGE, "troth {command} --help"),
    errors.Unavailable: (EXIT_UNAVAILABLE, "troth status          (which servers answer, and is there a quorum?)"),
    errors.NotLeader: (EXIT_UNAVAILABLE, "troth status          (is there a leader?)"),
    errors.Overloaded: (EXIT_UNAVAILABLE, "the same command again in a moment, with fewer requests at once"),
    errors.InvalidRequest: (EXIT_REFUSED, "troth {command} --help"),
    errors.AnswerTooLarge: (EXIT_REFUSED, "a smaller span, or --limit; the data were not touched"),
    errors.AnswerLost: (EXIT_UNKNOWN, "troth get KEY         (it has happened; see what it did)"),
    errors.QuotaExceeded: (
        EXIT_REFUSED,
        "troth del --prefix OLD/, then troth compact REVISION, then troth alarm disarm",
    ),
    errors.KeyNotFound: (EXIT_REFUSED, "troth range --prefix ''   (what keys are there?)"),
    errors.LeaseNotFound: (EXIT_REFUSED, "troth lease list      (it was never granted, was revoked, or expired)"),
    errors.LeaseExists: (EXIT_REFUSED, "troth lease grant without --id, to have a free one chosen"),
    errors.Compacted: (EXIT_REFUSED, "the same command without --revision, or with a newer one"),
    errors.FutureRevision: (EXIT_REFUSED, "troth status          (its revision is the newest there is)"),
    errors.WrongCluster: (EXIT_REFUSED, "check --url: the server there belongs to another cluster"),
    errors.ProtocolError: (
        EXIT_REFUSED,
        "check --url: is that a troth server's client address, and is TLS needed?",
    ),
    errors.Removed: (EXIT_REFUSED, "troth serve --join with an empty data directory"),
    errors.AlreadyDecided: (EXIT_REFUSED, "another key: `troth paxos propose` decides each key once, for ever"),
    errors.ChangeFailed: (EXIT_REFUSED, "the change again once its command or its number is right"),
    errors.AcceptorsChanged: (EXIT_REFUSED, "troth paxos acceptors list, then decide anew"),
    errors.IdentityLost: (EXIT_REFUSED, "troth member remove and add: a wiped server comes back as a new one"),
    errors.StorageError: (EXIT_REFUSED, "the same command, once what the message asks for is done"),
    errors.Corrupt: (EXIT_REFUSED, "what the message says; the damaged file is left as it is"),
    errors.OutcomeUnknown: (EXIT_UNKNOWN, "read it back before repeating it: troth get KEY"),
    TrothError: (EXIT_REFUSED, "troth status"),
}

_PAXOS_ADVICE: dict[type[TrothError], str] = {
    errors.Unavailable: "troth paxos acceptors list    (which acceptors answer?)",
    errors.QuotaExceeded: "troth paxos delete KEY, troth paxos collect, or a larger --quota-bytes for the acceptors",
    errors.OutcomeUnknown: "read it back before repeating it: troth paxos get KEY",
    errors.WrongCluster: "check --url: the acceptors there do not belong together",
    errors.ProtocolError: "check --url: are those acceptors, and is TLS needed?",
}
"""Registers have nothing to do with the key space, and an acceptor that runs alone has no status."""

_TELLS: dict[str, str] = {
    "transfer": "troth member list     (who leads now?)",
    "member": "troth member list     (has it happened?)",
    "lease": "troth lease list      (has it happened?)",
    "alarm": "troth alarm list      (has it happened?)",
    "compact": "the same command again: to compact twice is harmless",
    "paxos": "troth paxos get KEY, or, after `acceptors set`, the same command again: it goes on",
}
"""What shows whether a command that is not about one key has happened."""


_ABOUT_THE_CLUSTER = re.compile(
    r"^(troth (?:status|get KEY|range --prefix ''|(?:paxos )?\w+ list|lease keep-alive))(?!\S)"
)


def advice_for(error: TrothError, command: str = "") -> tuple[int, str]:
    """(exit code, what to try next) for *error* of *command*: the row of its class or its nearest ancestor."""
    code, advice = next(_ADVICE[kind] for kind in type(error).__mro__ if kind in _ADVICE)
    if isinstance(error, errors.InvalidRequest) and str(error).endswith("request is too large"):
        advice = "a smaller value: a request holds 1.5 MiB at most"
    if isinstance(error, errors.WatchCompacted):
        advice = "the same command with that revision, or a newer one, as --start-revision"
    elif isinstance(error, errors.Compacted) and command == "compact":
        advice = "nothing: that history is gone already"
    if command == "paxos":
        kinds = (kind for kind in type(error).__mro__ if kind in _PAXOS_ADVICE or kind in _ADVICE)
        advice = _PAXOS_ADVICE.get(next(kinds), advice)
    if isinstance(error, errors.UsageError) and str(error).startswith("no member is called"):
        advice = "troth member list"
    if command == "tx" and code == EXIT_UNAVAILABLE:
        advice = "the same command once the log and every --db answer"
    if code == EXIT_UNKNOWN:
        advice = _TELLS.get(command, advice)
    return code, advice.format(command=command or "COMMAND")


def asked_of(advice: str, url: str) -> str:
    """*advice* about the cluster at *url* (empty: the one that commands find by themselves)."""
    return (
        _ABOUT_THE_CLUSTER.sub(lambda command: f"{command[1]} --url {shlex.quote(url)}", advice) if url else advice
    )


def whether_it_happened(error: TrothError) -> str:
    """One clause on what is certain about the request that failed; empty when there was none."""
    if isinstance(error, errors.NotApplied):
        return "nothing was changed"
    if isinstance(error, errors.OutcomeUnknown):
        return "it may have happened"
    if isinstance(error, errors.AnswerLost):
        return "it has happened"
    return ""


class CommandFailed(click.ClickException):
    """How a `TrothError` leaves the command line."""

    def __init__(self, error: TrothError, command: str = "", url: str = "") -> None:
        super().__init__(str(error) or error.code)
        self.error = error
        code, advice = advice_for(error, command)
        self.advice = asked_of(advice, url)
        self.exit_code = code  # type: ignore[misc]  # click declares it for the class; it differs by error here

    @override
    def show(self, file: IO[Any] | None = None) -> None:
        certain = whether_it_happened(self.error)
        click.echo(f"Error: {self.message}{f' ({certain})' if certain else ''}", file=file, err=True)
        click.echo(f"Try:   {self.advice}", file=file, err=True)
