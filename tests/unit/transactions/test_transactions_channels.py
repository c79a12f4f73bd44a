"""Threads for drivers that can only block."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("sqlalchemy")

_FORKED = """
import os, signal
from troth.transactions.channels import _in_thread

_in_thread(list)()
child = os.fork()
if not child:
    signal.alarm(5)
    _in_thread(list)()
    os._exit(0)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_does_not_wait_for_threads_that_only_its_parent_has() -> None:
    assert subprocess.run([sys.executable, "-c", _FORKED], check=False).returncode == 0
