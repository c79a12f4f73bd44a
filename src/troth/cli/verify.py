"""verify: does a recorded history keep what a consistency model promises?"""

import time
from pathlib import Path

import click

from troth.cli import output
from troth.errors import DecodeError, UsageError
from troth.verify.check import MODELS, check
from troth.verify.formats.read import FORMATS, read_history
from troth.verify.models import OBJECTS
from troth.verify.report.page import html
from troth.verify.transactions import TRANSACTION_MODELS, WORKLOADS, check_transactions
from troth.verify.verdict import Status, Verdict

_EXIT = {Status.OK: 0, Status.ILLEGAL: 1, Status.UNKNOWN: 3}


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
    type=click.Choice([*OBJECTS, *WORKLOADS]),
    default="kv",
    show_default=True,
    help="What was used; list-append and rw-register are transactions.",
)
@click.option("--format", "file_format", type=click.Choice(FORMATS), help="Default: found out from the file.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds after which the answer is unknown.")
@click.option("--staleness-ms", type=float, help="For bounded: how old a value may be.")
@click.option("--versions-behind", type=int, help="For bounded: how many versions behind it may be.")
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the drawn history goes.  [default: FILE.html]",
)
@click.option("--no-html", is_flag=True, help="Draw nothing.")
@click.option("-o", "--output", "shown_as", type=click.Choice(["table", "json"]), default="table")
def verify(
    file: Path,
    model: str | None,
    object_: str,
    file_format: str | None,
    timeout: float,
    staleness_ms: float | None,
    versions_behind: int | None,
    page: Path | None,
    no_html: bool,
    shown_as: str,
) -> None:
    """Check a recorded history against a consistency model.

    Reads troth's own recordings (`with troth.recording("run.jsonl")`), Jepsen's, Porcupine's, Elle's and others, of
    any system, and draws the history as one HTML page that needs nothing else. Exit code 0: ok. 1: illegal, with the
    reason. 3: unknown, it took too long or too much memory.

    \b
    Examples:
      troth verify run.jsonl
      troth verify run.jsonl --model session-guarantees
      troth verify run.jsonl --model bounded --staleness-ms 2000
      troth verify history.edn --object list-append --model snapshot-isolation
    """
    is_transactional = object_ in WORKLOADS
    model = model or ("strict-serializable" if is_transactional else "linearizable")
    models = TRANSACTION_MODELS if is_transactional else MODELS
    if model not in models:
        kind = (
            "transactions (--object list-append or rw-register)"
            if model in TRANSACTION_MODELS
            else "single objects"
        )
        raise UsageError(
            f"{model} is a model of {kind}; --object {object_} is checked against {', '.join(models)}"
        )
    if (model == "bounded") != ((staleness_ms is None) != (versions_behind is None)):
        raise UsageError(
            "--model bounded takes exactly one of --staleness-ms and --versions-behind; no other does"
        )
    deadline_s = time.monotonic() + timeout
    try:
        history = read_history(file.read_bytes(), str(file), format=file_format)
    except DecodeError as error:
        raise UsageError(str(error)) from error

    def expired() -> bool:
        return time.monotonic() > deadline_s

    if is_transactional:
        verdict: Verdict = check_transactions(history, object_, model, expired=expired)
    else:
        verdict = check(
            history,
            model,
            object_,
            expired=expired,
            staleness_ns_max=None if staleness_ms is None else int(staleness_ms * 1_000_000),
            versions_behind_max=versions_behind,
        )
    drawn = None
    if not no_html:
        drawn = page or file.with_name(file.name + ".html")
        command = f"troth verify {file.name} --model {model} --object {object_}"
        drawn.write_text(html(verdict, title=file.name, command=command), encoding="utf-8")
    if shown_as == "json":
        output.print_json(
            {
                "verdict": verdict.status.value,
                "model": verdict.model,
                "object": verdict.object,
                "operations": len(history),
                "reason": verdict.reason,
                "violated": list(verdict.anomalies),
                "page": str(drawn) if drawn else None,
            }
        )
    else:
        click.echo(verdict.text().rstrip("\n"))
        if drawn is not None:
            click.echo(f"drawn: {drawn}")
    raise SystemExit(_EXIT[verdict.status])
