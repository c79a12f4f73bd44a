"""What ``troth ring apply`` moves: files in directories, or whatever a command of the user's moves."""

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from troth.errors import UsageError
from troth.hashing import Move, Plan
from troth.hashing.keys import digester
from troth.runtime.files import sync_directory

PARTIAL = ".partial-"


class DirectoryMover:
    """Nodes are directories under *root*, keys are file names (percent-encoded where a name cannot hold them).

    Files keep their times of change. What is written at the source after it was copied is therefore known as newer, and
    carried over before anything is dropped; what is written even later stays where it is. Deletions are not carried.
    """

    def __init__(self, root: Path, plan: Plan) -> None:
        """Args:
            root: has a directory for each node of the ring before.
            plan: says which hash the ranges are in.

        Raises:
            UsageError: a node whose name no directory under *root* can have.
        """
        self._root = root
        self._digest = digester(plan.key_hash, plan.bits)
        for name in sorted(set().union(*(move.touches() for move in plan.moves))):
            if Path(name).name != name or name == ".." or "\0" in name:
                raise UsageError(
                    f"each node is a directory under {root}, but none can be named {name!r}; use --exec"
                )

    def copy(self, move: Move) -> int:
        """Copy the range's files; each appears under its name only when it is complete and on disk."""
        files = self._files(move, self._directory(move.source or ""))
        (self._root / move.target).mkdir(exist_ok=True)
        sync_directory(self._root)
        return self._carry(move, files)

    def switch(self, move: Move) -> None:
        """Carry over what was written since. Whoever reads the directories asks the ring where to look."""
        if move.source is not None:
            files = self._files(move, self._directory(move.source))
            self._carry(move, [path for path in files if self._is_newer(move, path)])

    def drop(self, move: Move) -> None:
        """Delete the range's files at the leaving node, but none that the target has to have and has only older."""
        leaving = self._root / move.leaving
        files = self._files(move, leaving) if leaving.is_dir() else []
        if "switch" in move.steps:
            self._carry(move, [path for path in files if self._is_newer(move, path)])
            files = [path for path in files if not self._is_newer(move, path)]
        for path in files:
            path.unlink()

    def _carry(self, move: Move, paths: list[Path]) -> int:
        target = self._root / move.target
        partial = target / f"{PARTIAL}{move.id}"
        copied_bytes = 0
        for path in paths:
            told = path.stat()  # before its content is read: a write in between makes the original the newer one
            shutil.copyfile(path, partial)
            os.utime(partial, ns=(told.st_atime_ns, told.st_mtime_ns))
            with partial.open("rb") as handle:
                os.fsync(handle.fileno())
            partial.replace(target / path.name)
            copied_bytes += told.st_size
        if paths:
            sync_directory(target)
        return copied_bytes

    def _is_newer(self, move: Move, path: Path) -> bool:
        """Whether the target lacks the file at *path*, or has it older."""
        twin = self._root / move.target / path.name
        return not twin.exists() or twin.stat().st_mtime_ns < path.stat().st_mtime_ns

    def _directory(self, node: str) -> Path:
        path = self._root / node
        if not node or not path.is_dir():
            raise UsageError(f"{path} is no directory; each node is a directory under {self._root}")
        return path

    def _files(self, move: Move, directory: Path) -> list[Path]:
        """The range's files in *directory*."""
        listed = set(move.key_bytes())
        found = []
        for path in sorted(directory.iterdir()):
            if path.is_file() and not path.name.startswith(PARTIAL):
                key = unquote_to_bytes(os.fsencode(path.name))
                if key in listed or move.covers(self._digest(key)):
                    found.append(path)
        return found


class CommandMover:
    """Runs a shell command for each step, with the move in its environment.

    TROTH_STEP is copy, switch or drop; TROTH_MOVE, TROTH_SOURCE, TROTH_TARGET, TROTH_LEAVING, TROTH_FIRST and
    TROTH_LAST (hashes, both included) say what; TROTH_KEYS names listed keys, percent-encoded, by spaces. If the last
    line that a copy prints is a number, it is the bytes copied, which the throttle counts.
    """

    def __init__(self, command: str) -> None:
        self._command = command

    def copy(self, move: Move) -> int:
        words = self._run("copy", move).split()
        return int(words[-1]) if words and words[-1].isdigit() and len(words[-1]) < 20 else 0

    def switch(self, move: Move) -> None:
        self._run("switch", move)

    def drop(self, move: Move) -> None:
        self._run("drop", move)

    def _run(self, step: str, move: Move) -> bytes:
        told = {
            "TROTH_STEP": step,
            "TROTH_MOVE": str(move.id),
            "TROTH_SOURCE": move.source or "",
            "TROTH_TARGET": move.target,
            "TROTH_LEAVING": move.leaving,
            "TROTH_FIRST": "" if move.first is None else str(move.first),
            "TROTH_LAST": "" if move.last is None else str(move.last),
            "TROTH_KEYS": " ".join(quote(key, safe="") for key in move.key_bytes()),
        }
        done = subprocess.run(
            self._command, shell=True, env={**os.environ, **told}, stdout=subprocess.PIPE, check=False
        )
        if done.returncode:
            raise UsageError(
                f"the command failed ({done.returncode}) at {step} of move {move.id}; apply again to go on"
            )
        return done.stdout
