"""The whole state, streamed from one server into a file."""

import asyncio
import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from troth.client.greeting import greet
from troth.client.link import Connection, frame_of
from troth.client.retry import error_of
from troth.client.router import Router
from troth.errors import TrothError, Unavailable, UsageError
from troth.replica.protocol import CallRefused, FetchSnapshot, ServerMessage, SnapshotPart
from troth.storage.backup import SEAL_BYTES, SealingSink

_BUFFER_BYTES = 8 << 20


async def save(address: str, router: Router, sink: "str | os.PathLike[str] | BinaryIO") -> int:
    """The state of the server at *address* into *sink*, sealed; a path gets it all at once. Returns the bytes.

    Raises:
        UsageError: *sink* is neither a path nor a file.
        Unavailable: the stream broke off; a path is then left as it was.
        OSError: *sink* cannot be written.
    """
    if not isinstance(sink, str | os.PathLike):
        if not hasattr(sink, "write"):
            raise UsageError(
                f"a snapshot is saved to a path or a file open for writing in binary, not {sink!r:.60}"
            )
        return await _fetch_sealed(address, router, sink)
    path = Path(sink)
    part = _part_of(path)
    file = await asyncio.to_thread(_open_for, path, part)
    try:
        size_bytes = await _fetch_sealed(address, router, file)
        await asyncio.to_thread(finish_file, file, part, path)
    except BaseException:
        with suppress(OSError):  # closing writes what is buffered: on a full disk it fails again
            file.close()
        part.unlink(missing_ok=True)
        raise
    return size_bytes


def _open_for(path: Path, part: Path) -> BinaryIO:
    """*part*, open; what speaks against it is told of *path*, whose name the caller knows."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    try:
        # Nobody else may read it: it holds what the data directory does.
        return open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _part_of(path: Path) -> Path:
    """Where the content of *path* stands until all of it is there.

    Raises:
        UsageError: *path* has no last component that could name a file.
    """
    if not path.name:
        raise UsageError(f"{str(path)!r} names no file")
    return path.with_name(path.name + ".part")


def finish_file(file: BinaryIO, part: Path, path: Path) -> None:
    """Make *part* durable under the name *path*: content first, then name (both survive a power cut)."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    part.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


async def _fetch_sealed(address: str, router: Router, sink: BinaryIO) -> int:
    sealing = SealingSink(sink)
    size_bytes = await _fetch(address, router, sealing)
    await asyncio.to_thread(sealing.seal)
    return size_bytes + SEAL_BYTES


async def _fetch(address: str, router: Router, sink: SealingSink) -> int:
    """Stream a snapshot over a connection of its own: a slow sink then holds up nobody else."""
    parts: asyncio.Queue[SnapshotPart | TrothError] = asyncio.Queue()
    waiting_bytes = 0

    def on_message(connection: Connection, message: ServerMessage) -> None:
        nonlocal waiting_bytes
        if isinstance(message, SnapshotPart):
            parts.put_nowait(message)
            waiting_bytes += len(message.data)
            if waiting_bytes > _BUFFER_BYTES:
                connection.pause_reading()
        elif isinstance(message, CallRefused):
            parts.put_nowait(error_of(message.code, message.text))

    def on_lost(connection: Connection) -> None:
        parts.put_nowait(Unavailable(f"{address}: the snapshot broke off ({connection.error})"))

    connection = await greet(address, router, on_message=on_message, on_lost=on_lost)
    size_bytes = 0
    try:
        connection.send(frame_of(FetchSnapshot(router.next_call())))
        while True:
            try:
                async with asyncio.timeout(router.timeout_s):
                    part = await parts.get()
            except TimeoutError:
                raise Unavailable(f"{address}: the snapshot stands still") from None
            if isinstance(part, TrothError):
                raise part
            await asyncio.to_thread(sink.write, part.data)
            size_bytes += len(part.data)
            waiting_bytes -= len(part.data)
            if part.last:
                return size_bytes
            connection.resume_reading()
    finally:
        connection.close()
