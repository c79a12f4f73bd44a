"""verify: does a recorded history keep what a consistency model promises?"""

import json
import resource
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
from msgspec import structs

from troth.cli import output
from troth.cli.exit_codes import EXIT_OF_CHECK
from troth.cli.numbers import COUNT, POSITIVE
from troth.errors import DecodeError, UsageError
from troth.verify.check import MODELS, check
from troth.verify.formats.edn import Record, freeze
from troth.verify.formats.read import FORMATS, read_history
from troth.verify.guess import Guess, guess
from troth.verify.history import History, Reading, show
from troth.verify.models import OBJECTS
from troth.verify.report.page import html
from troth.verify.transactions import TRANSACTION_MODELS, WORKLOADS, check_transactions
from troth.verify.transactions.register import RegisterAssumptions
from troth.verify.transactions.scans import SCANS
from troth.verify.verdict import Status, Verdict

_ONE_OBJECT = {"atomic-commit": "transaction", "lock-safety": "lock", "watch": "kv"}
"""Models that are about one kind of object only."""
_ONE_BEGINNING = frozenset({"kv", "rw-register"})
"""Objects whose keys all start with the same value."""
_ASK_MEMORY_EVERY = 16


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--model",
    type=click.Choice(tuple(dict.fromkeys((*MODELS, *TRANSACTION_MODELS)))),
    help="What to check.  [default: linearizable; for transactions strict-serializable]",
)
@click.option(
    "--object",
    "object_",
    type=click.Choice(tuple(dict.fromkeys((*OBJECTS, *WORKLOADS, *SCANS, "transaction")))),
    help="What was used; list-append and rw-register are transactions.  [default: found out from the operations]",
)
@click.option("--format", "file_format", type=click.Choice(FORMATS), help="Default: found out from the file.")
@click.option(
    "--failed",
    type=click.Choice(["absent", "observed"]),
    help="How a failed cas is read: it never happened, or it saw another value.  [default: as the format has it]",
)
@click.option(
    "--nil-read",
    type=click.Choice(["value", "unknown"]),
    help="How a read of nil is read: it saw the initial value, or nobody knows.  [default: as the format has it]",
)
@click.option(
    "--initial",
    metavar="JSON",
    help='What objects start as, such as 0; of a bank or multi-register also {"a": 10, "b": 10}.',
)
@click.option(
    "--assume",
    multiple=True,
    type=click.Choice(["writes-follow-reads", "sequential-keys", "linearizable-keys"]),
    help="For rw-register: what is known of the store, as Elle's switches of these names. May be repeated.",
)
@click.option(
    "--timeout", type=POSITIVE, default=60.0, show_default=True, help="Seconds after which the answer is unknown."
)
@click.option(
    "--memory", type=COUNT, default=2048, show_default=True, help="Megabytes after which the answer is unknown."
)
@click.option("--staleness-ms", type=click.FloatRange(min=0), help="For bounded: how old a value may be.")
@click.option("--versions-behind", type=COUNT, help="For bounded: how many versions behind it may be.")
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the drawn history goes.  [default: FILE.html]",
)
@click.option("--no-html", is_flag=True, help="Draw nothing.")
@output.json_options
def verify(
    file: Path,
    model: str | None,
    object_: str | None,
    file_format: str | None,
    failed: str | None,
    nil_read: str | None,
    initial: str | None,
    assume: tuple[str, ...],
    timeout: float,
    memory: int,
    staleness_ms: float | None,
    versions_behind: int | None,
    page: Path | None,
    no_html: bool,
    as_json: bool,
) -> None:
    """Check a recorded history against a consistency model.

    Reads troth's own recordings (`with troth.recording("run.jsonl")`), Jepsen's, Porcupine's, Elle's and others, of
    any system, and draws the history as one HTML page that needs nothing else. Exit code 0: ok. 1: illegal, with the
    reason. 3: unknown, it took too long or too much memory.

    \b
    Examples:
      troth verify run.jsonl
      troth verify run.jsonl --model session-guarantees
      troth verify run.jsonl --model watch
      troth verify run.jsonl --model bounded --staleness-ms 2000
      troth verify history.edn --object list-append --model snapshot-isolation
      troth verify register.edn.gz --failed observed --nil-read value --timeout 10
      troth verify bank.edn --model scan
    """
    deadline = _Deadline(timeout, memory)
    try:
        history = read_history(file.read_bytes(), str(file), format=file_format)
    except DecodeError as error:
        raise UsageError(str(error)) from error
    history = history.with_reading(_reading(history.reading, failed, nil_read, initial))
    chosen = _chosen(history, object_, model)
    if (chosen.model == "bounded") != ((staleness_ms is None) != (versions_behind is None)):
        raise UsageError(
            "--model bounded takes exactly one of --staleness-ms and --versions-behind; no other does"
        )
    bounds = _Bounds(assume, None if staleness_ms is None else int(staleness_ms * 1_000_000), versions_behind)
    verdict = _checked(history, chosen, bounds, deadline)
    drawn = None
    if not no_html:
        options = {
            "--format": file_format,
            "--failed": failed,
            "--nil-read": nil_read,
            "--initial": initial,
            "--staleness-ms": staleness_ms,
            "--versions-behind": versions_behind,
        }
        said = [word for name, value in options.items() if value is not None for word in (name, str(value))]
        said += [word for name in assume for word in ("--assume", name)]
        drawn = _drawn(verdict, file, page or file.with_name(file.name + ".html"), _again(file, chosen, said))
    if as_json:
        _print_json(verdict, history, drawn)
    else:
        _print(verdict, history, chosen, drawn)
    raise SystemExit(EXIT_OF_CHECK[verdict.status.value])


class _Bounds(NamedTuple):
    """What the command line says of the store, and how old or how far behind a bounded value may be."""

    assume: tuple[str, ...]
    staleness_ns_max: int | None
    versions_behind_max: int | None


def _chosen(history: History, object_: str | None, model: str | None) -> Guess:
    """What the history is of and which model it is checked against: as asked for, the rest guessed. `because` is
    empty for an object that was named.

    Raises:
        UsageError: the model is not one of that object's.
    """
    because = ""
    if object_ is None:
        if model in _ONE_OBJECT:
            object_, because = _ONE_OBJECT[model], "the model says so"
        else:
            guessed = guess(history)
            object_, because, model = guessed.object, guessed.because, model or guessed.model
    if isinstance(history.reading.initial, Record) and object_ in _ONE_BEGINNING:
        raise UsageError(
            f"all keys of a {object_} start with one value, not each with its own as {show(history.reading.initial)} "
            f"says; --object multi-register knows of such maps, and so does bank"
        )
    model = model or _usual_model(object_)
    models = TRANSACTION_MODELS if object_ in WORKLOADS else MODELS
    if model not in models:
        kind = (
            "transactions (--object list-append or rw-register)"
            if model in TRANSACTION_MODELS
            else "single objects"
        )
        raise UsageError(
            f"{model} is a model of {kind}; --object {object_} is checked against {', '.join(models)}"
        )
    return Guess(object_, model, because)


def _checked(history: History, chosen: Guess, bounds: _Bounds, deadline: "_Deadline") -> Verdict:
    if chosen.object in WORKLOADS:
        known = RegisterAssumptions(**{name.replace("-", "_"): True for name in bounds.assume})
        verdict: Verdict = check_transactions(
            history, chosen.object, chosen.model, assume=known, expired=deadline.expired
        )
    else:
        verdict = check(
            history,
            chosen.model,
            chosen.object,
            expired=deadline.expired,
            staleness_ns_max=bounds.staleness_ns_max,
            versions_behind_max=bounds.versions_behind_max,
        )
    if verdict.status is Status.UNKNOWN:
        verdict.reason = deadline.explained(verdict.reason)
    if not len(history):
        verdict.status, verdict.reason = Status.UNKNOWN, "no operation stands in the file: was anything recorded?"
    return verdict


def _again(file: Path, chosen: Guess, options: Sequence[str]) -> str:
    """The command line that checks the same again, without a guess."""
    return shlex.join(["troth", "verify", file.name, "--model", chosen.model, "--object", chosen.object, *options])


def _drawn(verdict: Verdict, file: Path, page: Path, command: str) -> Path | None:
    """Where the drawn history is; None if it could not be written there."""
    try:
        page.write_text(html(verdict, title=file.name, command=command), encoding="utf-8")
    except OSError as error:
        click.echo(f"cannot write {page}: {error.strerror}; name another with --html, or say --no-html", err=True)
        return None
    return page


def _print_json(verdict: Verdict, history: History, drawn: Path | None) -> None:
    output.print_json(
        {
            "verdict": verdict.status.value,
            "model": verdict.model,
            "object": verdict.object,
            "operations": len(history),
            "format": history.format,
            "read_as": history.reading.sentence(),
            "remarks": list(history.remarks),
            "reason": verdict.reason,
            "violated": list(verdict.anomalies),
            "page": str(drawn) if drawn else None,
        }
    )


def _print(verdict: Verdict, history: History, chosen: Guess, drawn: Path | None) -> None:
    click.echo(verdict.text().rstrip("\n"))
    because = (
        f"; taken for a {chosen.object}: {chosen.because} (--object says otherwise)" if chosen.because else ""
    )
    click.echo(f"format: {history.format}{because}")
    for remark in history.remarks:
        click.echo(f"note: {remark}")
    if drawn is not None:
        click.echo(f"drawn: {drawn}")


class _Deadline:
    """When a check has to give up: after so many seconds, or with so much memory in use."""

    def __init__(self, seconds: float, megabytes: int) -> None:
        self._seconds, self._megabytes = seconds, megabytes
        self._end_s = time.monotonic() + seconds
        self._asked = 0
        self._is_full = False

    def expired(self) -> bool:
        """Whether it is time."""
        self._asked += 1
        if self._asked % _ASK_MEMORY_EVERY == 0 and _memory_megabytes() > self._megabytes:
            self._is_full = True
        return self._is_full or time.monotonic() > self._end_s

    def explained(self, reason: str) -> str:
        """*reason*, with the bound that was met."""
        if self._is_full:
            return reason.replace("out of time", f"out of memory (--memory {self._megabytes})")
        return reason.replace("out of time", f"out of time (--timeout {self._seconds:g})")


def _memory_megabytes() -> float:
    """Memory that the process has had in use at most; Linux counts kilobytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _usual_model(object_: str) -> str:
    if object_ in WORKLOADS:
        return "strict-serializable"
    if object_ in OBJECTS:
        return "linearizable"
    return "atomic-commit" if object_ == "transaction" else "scan"


def _reading(reading: Reading, failed: str | None, nil_read: str | None, initial: str | None) -> Reading:
    """The format's reading, with what the command line says otherwise."""
    if failed is not None:
        reading = structs.replace(reading, failed=failed)
    if nil_read is not None:
        reading = structs.replace(reading, nil_read=nil_read)
    if initial is not None:
        try:
            reading = structs.replace(reading, initial=freeze(json.loads(initial)))
        except json.JSONDecodeError as error:
            raise UsageError(
                f"--initial {initial}: {error.msg} at {error.pos}; expected JSON, such as 0"
            ) from error
    return reading
