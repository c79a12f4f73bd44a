"""``troth ring apply``: carry out a plan, over directories or by a command, and go on after a pause or a crash."""

import sys
import time
from pathlib import Path

import click

from troth.cli.numbers import Positive, Whole, counted
from troth.cli.progress import Progress as Bar
from troth.cli.ring_files import alone_with, read_decoded, write_whole
from troth.cli.ring_movers import CommandMover, DirectoryMover
from troth.errors import UsageError
from troth.hashing import Mover, Plan, Progress, Throttle

_EXEC_EPILOG = """\b
The command of --exec finds in its environment:
  TROTH_STEP                  copy, switch or drop
  TROTH_SOURCE, TROTH_TARGET  copy from, copy to
  TROTH_LEAVING               the node that gives the range up
  TROTH_FIRST, TROTH_LAST     the range of hashes, both ends included
  TROTH_KEYS                  listed keys, percent-encoded (plans without ranges)
  TROTH_MOVE                  number of the move
If a copy's last word on stdout is a number, it is the bytes copied. Each step may be run again after a crash, and a
copy after a pause. What is written to a range between its copy and its switch is for the command to carry over, in
its switch.
"""


@click.command(epilog=_EXEC_EPILOG)
@click.argument("plan_file", metavar="PLAN", type=click.Path(path_type=Path))
@click.option("--directory", type=click.Path(path_type=Path), help="Nodes are directories here, keys are files.")
@click.option("--exec", "command", help="A shell command run for each step, told by its environment (below).")
@click.option("--bytes-per-second", type=Positive("bytes"), help="Throttle copying.")
@click.option("--stop-after", type=Whole(1), help="Pause after so many moves.")
@click.option(
    "--undo",
    is_flag=True,
    help="Take back what has been done; PLAN becomes the plan of that, which goes on with or without --undo.",
)
def apply(
    plan_file: Path,
    directory: Path | None,
    command: str | None,
    bytes_per_second: float | None,
    stop_after: int | None,
    undo: bool,
) -> None:
    """Carry out PLAN. Progress is kept in it: Ctrl-C pauses, the same command goes on."""
    if (directory is None) == (command is None):
        raise UsageError("who moves the data? say --directory ROOT or --exec COMMAND")
    if directory is not None and not directory.is_dir():
        raise UsageError(f"{directory} is no directory; it holds one for each node")
    with alone_with(plan_file):
        _apply(plan_file, directory, command, bytes_per_second, stop_after, undo)


def _apply(
    plan_file: Path,
    directory: Path | None,
    command: str | None,
    bytes_per_second: float | None,
    stop_after: int | None,
    undo: bool,
) -> None:
    work = read_decoded(plan_file, Plan.from_json)
    if undo and not work.undoing:
        work = work.undo()
        write_whole(plan_file, work.to_json())
    work.resume(copy_again=True)
    mover: Mover = DirectoryMover(directory, work) if directory is not None else CommandMover(command or "")
    throttle = (
        Throttle(bytes_per_second=bytes_per_second, clock=time.monotonic, sleep=time.sleep)
        if bytes_per_second
        else None
    )
    goal = len(work.done) + stop_after if stop_after else len(work.moves)
    with Bar("moves", total=max(1, len(work.moves) - len(work.done)), file=sys.stderr) as bar:

        def save() -> None:
            write_whole(plan_file, work.to_json())

        def on_progress(progress: Progress) -> None:
            bar.advance()
            save()
            if progress.moves_done >= goal:
                work.pause()

        try:
            work.apply(mover, throttle=throttle, on_progress=on_progress, on_switch=save)
        except KeyboardInterrupt:
            work.pause()
        except OSError as error:  # a full disk, a name that no file can have
            raise UsageError(f"the move failed: {error}; apply again to go on") from None
        finally:
            write_whole(plan_file, work.to_json())
    if work.finished:
        click.echo(f"done: {counted(len(work.moves), 'move')}; the ring is now {work.after}")
    else:
        click.echo(
            f"paused after {len(work.done)} of {counted(len(work.moves), 'move')}; the same command goes on"
        )
