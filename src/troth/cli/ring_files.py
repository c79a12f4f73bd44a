"""The files of `troth ring`: read whole, replaced whole, and a plan carried out by one process at a time."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import TypeVar

from troth.errors import Corrupt, DecodeError, UsageError
from troth.hashing import Plan, RingSpec
from troth.runtime.files import sync_directory

Record = TypeVar("Record", RingSpec, Plan)


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def read_decoded(path: Path, decode: Callable[[bytes], Record]) -> Record:
    try:
        return decode(read_bytes(path))
    except DecodeError as error:
        raise Corrupt(f"{path}: {error}", path=str(path)) from None


def write_whole(path: Path, data: bytes) -> None:
    """Replace *path* as a whole: a reader, or a crash, sees the old content or the new; after the return, the new."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None


def refuse_to_forget(path: Path) -> None:
    """Refuse to write over a plan that is under way: its record is all that knows which side has what."""
    try:
        there = Plan.from_json(path.read_bytes())
    except (OSError, DecodeError):
        return
    if not there.finished and (there.done or there.copied or there.copying):
        raise UsageError(
            f"{path} is a plan that is under way: apply it, or apply --undo, or write to another file"
        )


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Refuse a second process that carries out the same plan. The lock is the kernel's, and goes with the process."""
    held = path.with_name(path.name + ".lock")
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(held.open("wb"))
            flock(lock, LOCK_EX | LOCK_NB)
            if not os.path.samestat(os.fstat(lock.fileno()), held.stat()):  # whoever held it has just removed it
                raise FileNotFoundError
        except (BlockingIOError, FileNotFoundError):
            raise UsageError(f"another process is carrying {path} out, or {path.parent} is not there") from None
        except OSError as error:
            raise UsageError(f"cannot write {held}: {error.strerror}") from None
        stack.callback(held.unlink)
        yield
