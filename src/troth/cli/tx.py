"""tx list, show, resolve, forget, recover: transactions over several databases, for the operator."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from troth.cli import output
from troth.errors import HeuristicMixed, RequestTimeout, TrothError, Unavailable, UsageError
from troth.transactions import missing

if TYPE_CHECKING:
    from troth.core.twophase.gid import Gid
    from troth.core.twophase.records import Heuristic
    from troth.transactions.coordinator import TwoPhaseCommit
    from troth.transactions.participants.base import Prepared, Recovered

F = TypeVar("F", bound=Callable[..., Any])


_BLOCKING = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql", "sqlite": "sqlite"}
"""By name of the dialect: what is installed with troth[sqlalchemy], or with Python."""


def tx_options(command: F) -> F:
    """Where the decision log is, and how to reach the databases."""
    for option in (
        output.json_options,
        click.option("--name", default="troth", show_default=True, help="The system's name in a replicated log."),
        click.option(
            "--log",
            envvar="TROTH_TX_LOG",
            default="troth-2pc",
            show_default=True,
            help="The application's decision log: its directory, or troth://host:port,... [TROTH_TX_LOG]",
        ),
        click.option(
            "--db",
            "databases",
            multiple=True,
            required=True,
            metavar="NAME=URL",
            help="A participant under the name that the log knows it by, as a SQLAlchemy URL; may be repeated.",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def _opened(
    databases: tuple[str, ...], log: str, name: str, *, needs_all: bool = True
) -> Iterator[TwoPhaseCommit]:
    """Over the databases that answer. That others did not is the command's outcome, if it *needs_all*."""
    try:
        from sqlalchemy import create_engine
        from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
    except ImportError:
        raise UsageError(missing("this command")) from None
    from troth.client.url import is_url
    from troth.transactions.coordinator import TwoPhaseCommit

    _require_log(log)
    participants: dict[str, Any] = {}
    for given in databases:
        known_as, is_named, url = given.partition("=")
        if not is_named or not known_as or "://" not in url:
            raise UsageError(f"--db {given}: write NAME=URL, such as bank=postgresql+psycopg://user@host/bank")
        try:
            participants[known_as] = url if is_url(url) else create_engine(url)
        except (ArgumentError, NoSuchModuleError, ImportError) as error:
            raise UsageError(f"--db {known_as}: {error}") from error
        dialect = getattr(participants[known_as], "dialect", None)
        if dialect is not None and dialect.is_async:
            raise UsageError(
                f"--db {known_as}: {url.partition(':')[0]} is a driver of asyncio, which this command does not use;"
                f" write the same URL with {_BLOCKING.get(dialect.name, 'another driver')}"
            )
    try:
        opened = TwoPhaseCommit(participants, log=log, name=name, recover_every=None, without_unreachable=True)
    except (DBAPIError, RequestTimeout) as error:
        raise Unavailable(f"a database can not be asked: {getattr(error, 'orig', error)}") from error
    with opened as tpc:
        yield tpc
    if needs_all and opened.unreachable:
        raise Unavailable(f"not asked: {'; '.join(f'{name}: {why}' for name, why in _silent(opened).items())}")


def _require_log(log: str) -> None:
    """Refuse to make one: in a new log nothing is in doubt, whatever is in the one that was meant."""
    from troth.transactions.log.directory import LOG_ID

    root = Path(log)
    if "://" in log or (root / LOG_ID).exists():
        return
    if not root.is_dir() or any(root.iterdir()):
        raise UsageError(
            f"{log} is no decision log; give the one that the application uses: --log DIRECTORY, or TROTH_TX_LOG. (If"
            " that is lost: an empty directory, and then tx resolve)"
        )


def _silent(tpc: TwoPhaseCommit) -> dict[str, str]:
    """The databases that do not answer, and what their drivers say."""
    return {name: str(getattr(error, "orig", error)) for name, error in tpc.unreachable.items()}


def _verdict(tpc: TwoPhaseCommit, gid: Gid, *, is_prepared: bool) -> str:
    from troth.transactions.outcome import Outcome

    try:
        outcome = tpc.outcome(str(gid))
        if is_prepared and outcome is Outcome.UNRECORDED:
            outcome = Outcome.ABORTED  # what has prepared does not commit without the log
        return outcome.value
    except TrothError as error:
        return error.code


def _prepared(tpc: TwoPhaseCommit) -> list[tuple[Recovered, Prepared]]:
    return [(each, found) for each in tpc.participants for found in each.prepared()]


def _finish(participant: Recovered, branch: str, *, commit: bool) -> str:
    from troth.transactions.report import UNREACHABLE

    try:
        return participant.finish(branch, commit=commit).name.lower()
    except UNREACHABLE as error:
        return f"not finished: {getattr(error, 'orig', error)}"


def _living(tpc: TwoPhaseCommit) -> Callable[[Gid], bool]:
    """Whether a transaction is one of a coordinator that lives, or may live, in another process."""
    living = {
        (known.name, known.epoch)
        for known in tpc.log.coordinators()
        if known.name != tpc.coordinator and (known.is_alive or known.problem)
    }
    return lambda gid: (gid.coordinator, gid.epoch) in living


def _what_next(tpc: TwoPhaseCommit, gid: Gid, verdict: str, *, lives: bool) -> str:
    """What becomes of a branch that is prepared."""
    match verdict:
        case "committed" if lives:
            return "its coordinator lives, and commits it; recover --even-if-alive fences it off"
        case "committed":
            return "recover commits it"
        case "aborted":
            return "recover rolls it back"
        case "open" if not lives:
            return "recover decides it"
        case "open":
            return "its coordinator lives; recover --even-if-alive fences it off"
        case "foreign" if gid.log != tpc.log.epoch.log:
            return f"of log {gid.log}: give that one as --log; tx resolve only if it is lost"
        case "foreign" | "forgotten":
            return "nobody's: tx resolve"
        case HeuristicMixed.code:
            return "repair what was finished against the decision, then tx forget"
        case _:
            return "the log cannot be asked now; try again"


def _mixed(tpc: TwoPhaseCommit, found: Heuristic) -> dict[str, Any]:
    """The row of what somebody has finished against the decision, and nobody has repaired."""
    step = _what_next(tpc, _parsed(found.gid), HeuristicMixed.code, lives=False)
    row = {"gid": found.gid, "database": found.participant, "branch": "", "age_s": 0.0}
    return {**row, "decision": HeuristicMixed.code, "next": step}


@click.group()
def tx() -> None:
    """Transactions over several databases: list, recover and resolve them."""


@tx.command("list")
@tx_options
def list_(databases: tuple[str, ...], log: str, name: str, as_json: bool) -> None:
    """List branches that are prepared, decisions that are not known to be applied, and what went against one.

    \b
    Examples:
      troth tx list --db bank=postgresql+psycopg://app@db1/bank --db ledger=mysql+pymysql://app@db2/ledger
      troth tx list --log troth://n1:4001,n2:4001 --db bank=postgresql+psycopg://app@db1/bank
    """
    with _opened(databases, log, name) as tpc:
        rows: list[dict[str, Any]] = []
        lives = _living(tpc)
        for participant, found in _prepared(tpc):
            verdict = _verdict(tpc, found.gid, is_prepared=True)
            row: dict[str, Any] = {"gid": str(found.gid), "database": participant.name, "branch": found.branch}
            step = _what_next(tpc, found.gid, verdict, lives=lives(found.gid))
            rows.append({**row, "age_s": round(found.age_s, 1), "decision": verdict, "next": step})
        listed = {row["gid"] for row in rows}
        unread: dict[str, str] = {}
        for record in tpc.log.unapplied(unread):
            if record.gid not in listed:
                names = ",".join(filter(None, (*(ref.participant for ref in record.branches), record.delegate)))
                only = {"gid": record.gid, "database": names, "branch": "", "age_s": 0.0}
                gid = _parsed(record.gid)
                verdict, step = "committed", "recover notes it as applied"
                if record.delegate:
                    verdict = _verdict(tpc, gid, is_prepared=True)
                    step = step if verdict == "committed" else f"recover asks {record.delegate}"
                if lives(gid):
                    step = "its coordinator lives, and ends it"
                rows.append({**only, "decision": verdict, "next": step})
        nobody = {"gid": "", "branch": "", "age_s": 0.0, "decision": "not known"}
        rows += [{**nobody, "database": f"log of {name}", "next": why} for name, why in unread.items()]
        rows += [_mixed(tpc, found) for found in tpc.log.heuristics()]
        if as_json:
            output.print_json(rows)
        elif rows:
            output.print_table(list(rows[0]), [list(row.values()) for row in rows])
        else:
            where = " in the databases that answered" if tpc.unreachable else ""
            click.echo(f"nothing is in doubt{where}", err=True)


@tx.command()
@click.argument("gid")
@tx_options
def show(gid: str, databases: tuple[str, ...], log: str, name: str, as_json: bool) -> None:
    """Show what the log and the databases say about one transaction.

    \b
    Example:
      troth tx show T1.k3f09qpx.0.2.5 --db bank=postgresql+psycopg://app@db1/bank
    """
    with _opened(databases, log, name) as tpc:
        parsed = _parsed(gid)
        record = tpc.log.commit_of(parsed)
        prepared = [p.name for p, found in _prepared(tpc) if found.gid == parsed]
        answer: dict[str, Any] = {
            "gid": gid,
            "decision": _verdict(tpc, parsed, is_prepared=bool(prepared)),
            "key": record.key if record else "",
            "branches": [
                {"database": ref.participant, "branch": ref.branch, "proof": ref.proof}
                for ref in (record.branches if record else ())
            ],
            "prepared": prepared,
            "against_the_decision": [
                {"database": h.participant, "seen": h.seen} for h in tpc.log.heuristics() if h.gid == gid
            ],
        }
        if as_json:
            output.print_json(answer)
        else:
            for field, content in answer.items():
                click.echo(f"{field}: {content}")


@tx.command()
@click.option("--even-if-alive", is_flag=True, help="Fence off coordinators that seem to live (a paused process).")
@tx_options
def recover(even_if_alive: bool, databases: tuple[str, ...], log: str, name: str, as_json: bool) -> None:
    """Finish what dead coordinators have left, as the log says.

    \b
    Example:
      troth tx recover --db bank=postgresql+psycopg://app@db1/bank --db ledger=mysql+pymysql://app@db2/ledger
    """
    with _opened(databases, log, name) as tpc:
        report = tpc.recover(even_if_alive=even_if_alive)
        answer = {field: content for field, content in vars(report).items() if not field.startswith("_")}
        answer["unreachable"] = {**report.unreachable, **_silent(tpc)}
        if as_json:
            output.print_json(answer)
        else:
            for field, content in answer.items():
                click.echo(f"{field}: {content if not isinstance(content, list) else ', '.join(content) or '-'}")


@tx.command()
@click.argument("gid")
@click.option("--commit", "decision", flag_value="commit", help="Commit its branches.")
@click.option("--abort", "decision", flag_value="abort", help="Roll its branches back.")
@click.option("--i-know", is_flag=True, help="Yes: I have found out how the other databases ended it.")
@tx_options
def resolve(
    gid: str,
    decision: str | None,
    i_know: bool,
    databases: tuple[str, ...],
    log: str,
    name: str,
    as_json: bool,
) -> None:
    """Finish by hand the branches of a transaction that no log knows.

    Never against a decision that the log has: that would tear the transaction.

    \b
    Example:
      troth tx resolve T1.k3f09qpx.0.2.5 --abort --i-know --db bank=postgresql+psycopg://app@db1/bank
    """
    if decision is None:
        raise UsageError("say --commit or --abort")
    from troth.transactions.outcome import Outcome

    parsed = _parsed(gid)
    with _opened(databases, log, name) as tpc:
        known = _verdict(tpc, parsed, is_prepared=True)
        if known not in {*Outcome, HeuristicMixed.code}:
            raise UsageError(f"{gid}: the log cannot be asked now ({known}), and may have decided it; try again")
        if known == "open":
            raise UsageError(
                f"{gid}: its coordinator may still decide it; first: troth tx recover --even-if-alive"
            )
        if known in ("committed", "aborted") and known[:5] != decision[:5]:
            raise UsageError(
                f"{gid} is {known} in the log: only --{'commit' if known == 'committed' else 'abort'} can be right"
            )
        if known not in ("committed", "aborted") and not i_know:
            raise UsageError(
                f"the log says {known}: a wrong choice makes the transaction half done for ever. Find out how its other"
                " branches ended, then add --i-know"
            )
        done = {
            participant.name: _finish(participant, found.branch, commit=decision == "commit")
            for participant, found in _prepared(tpc)
            if found.gid == parsed
        }
        if as_json:
            output.print_json({"gid": gid, "decision": decision, "branches": done})
        elif done:
            for database, how in done.items():
                click.echo(f"{database}: {how}")
        else:
            click.echo("no branch of it is prepared in these databases", err=True)


@tx.command()
@click.argument("gid")
@tx_options
def forget(gid: str, databases: tuple[str, ...], log: str, name: str, as_json: bool) -> None:
    """Forget what is listed as finished against the decision, once it is repaired.

    Another database that turns out to have done so later is listed anew.

    \b
    Example:
      troth tx forget T1.k3f09qpx.0.2.5 --db bank=postgresql+psycopg://app@db1/bank
    """
    with _opened(databases, log, name, needs_all=False) as tpc:
        is_forgotten = tpc.log.forget(str(_parsed(gid)), _operator())
        if as_json:
            output.print_json({"gid": gid, "forgotten": is_forgotten})
        else:
            click.echo("forgotten" if is_forgotten else "nothing was noted about it", err=not is_forgotten)


def _operator() -> str:
    """Who says so. A process in a container may run under a number that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _parsed(gid: str) -> Gid:
    from troth.core.twophase.gid import parse_gid

    found = parse_gid(gid)
    if found is None:
        raise UsageError(f"{gid!r} is no transaction's name; `troth tx list` prints them")
    return found[0]
