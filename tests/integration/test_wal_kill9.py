"""The log on the real disk, in a real process that is killed while it writes."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from troth.runtime.files import DiskFiles
from troth.storage.log import WriteAheadLog

WRITER = """
import sys
from troth.core.interface import Entry, EntryKind, HardState, Persist
from troth.runtime.files import DiskFiles
from troth.storage.log import WriteAheadLog

log, recovered = WriteAheadLog.open(DiskFiles(sys.argv[1]), segment_bytes=1 << 20)
index = recovered.last.index
while True:
    new = range(index + 1, index + 2 + index % 7)
    batch = tuple(Entry(at, 3, EntryKind.COMMANDS, b"%d" % at * 50) for at in new)
    index = new[-1]
    log.append([Persist(hard_state=HardState(3, index), entries=batch)])
    log.sync()
    sys.stdout.write(f"{index}\\n")
    sys.stdout.flush()
"""


@pytest.mark.integration
def test_kill_9_at_any_moment_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged = 0
    for round_number in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert writer.stdout is not None
        for line in itertools.islice(writer.stdout, 300 + 37 * round_number):
            acknowledged = int(line)
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().splitlines()
        # The last line may be cut off in the pipe: then it is a shorter number, and no claim.
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1])])
        writer.wait()
        writer.stdout.close()
        files = DiskFiles(tmp_path)
        log, recovered = WriteAheadLog.open(files, segment_bytes=1 << 20)
        assert recovered.damaged is None
        assert recovered.last.index >= acknowledged
        assert recovered.hard_state.voted_for == recovered.last.index, "term, vote and entries are one record"
        assert [entry.payload for entry in recovered.entries] == [
            b"%d" % index * 50 for index in range(1, recovered.last.index + 1)
        ]
        log.close()
        files.close()
    assert acknowledged > 1000
