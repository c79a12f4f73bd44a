"""What a forked child is told, and that what is gone is kept by nobody for that."""

import gc
import os
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy")

from troth.transactions.barrier import Barrier
from troth.transactions.core import Core
from troth.transactions.log.file import FileLog
from troth.transactions.steps import nothing


def test_what_is_gone_leaves_nothing_that_a_child_would_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may make one TwoPhaseCommit after the other; Python never drops what it is to call after a fork."""
    given: list[Callable[[], None]] = []
    monkeypatch.setattr(os, "register_at_fork", lambda *, after_in_child: given.append(after_in_child))
    core = Core([], FileLog(tmp_path), barrier=Barrier(None), on_step=nothing)
    core.close()
    found = weakref.ref(core)
    del core
    gc.collect()
    assert found() is None
    assert given == []
