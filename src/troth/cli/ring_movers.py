"""What ``troth ring apply`` moves: files in directories, or whatever a command of the user's moves."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from troth.errors import UsageError
from troth.hashing import Move, Plan
from troth.hashing.keys import digester

PARTIAL = ".partial-"


class DirectoryMover:
    """Nodes are directories under *root*, keys are file names (percent-encoded where a name cannot hold them)."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self._root = root
        self._digest = digester(plan.key_hash, plan.bits)

    def copy(self, move: Move) -> int:
        """Copy the range's files; each appears under its name only when it is complete and on disk."""
        source, target = self._directory(move.source or ""), self._root / move.target
        target.mkdir(exist_ok=True)
        copied_bytes = 0
        for path in self._files(move, source):
            partial = target / (PARTIAL + path.name)
            shutil.copyfile(path, partial)
            with partial.open("rb") as handle:
                os.fsync(handle.fileno())
            partial.replace(target / path.name)
            copied_bytes += path.stat().st_size
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return copied_bytes

    def switch(self, move: Move) -> None:
        """Nothing: whoever reads the directories asks the ring where to look."""

    def drop(self, move: Move) -> None:
        """Delete the range's files at the leaving node."""
        leaving = self._root / move.leaving
        for path in list(self._files(move, leaving)) if leaving.is_dir() else []:
            path.unlink()

    def _directory(self, node: str) -> Path:
        path = self._root / node
        if not node or not path.is_dir():
            raise UsageError(f"{path} is no directory; each node is a directory under {self._root}")
        return path

    def _files(self, move: Move, directory: Path) -> Iterator[Path]:
        listed = set(move.key_bytes())
        for path in sorted(directory.iterdir()):
            if path.is_file() and not path.name.startswith(PARTIAL):
                key = unquote_to_bytes(os.fsencode(path.name))
                if key in listed or move.covers(self._digest(key)):
                    yield path


class CommandMover:
    """Runs a shell command for each step, with the move in its environment.

    TROTH_STEP is copy, switch or drop; TROTH_MOVE, TROTH_SOURCE, TROTH_TARGET, TROTH_LEAVING, TROTH_FIRST and
    TROTH_LAST (hashes, both included) say what; TROTH_KEYS names listed keys, percent-encoded, by spaces. If the last
    line that a copy prints is a number, it is the bytes copied, which the throttle counts.
    """

    def __init__(self, command: str) -> None:
        self._command = command

    def copy(self, move: Move) -> int:
        lines = self._run("copy", move).split()
        return int(lines[-1]) if lines and lines[-1].isdecimal() else 0

    def switch(self, move: Move) -> None:
        self._run("switch", move)

    def drop(self, move: Move) -> None:
        self._run("drop", move)

    def _run(self, step: str, move: Move) -> str:
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
            self._command, shell=True, env={**os.environ, **told}, stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise UsageError(
                f"the command failed ({done.returncode}) at {step} of move {move.id}; apply again to go on"
            )
        return done.stdout
