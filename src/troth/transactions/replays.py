"""What a retry finds committed, it lets others see before its block ends: the first try may have died in between."""

import time

from troth.core.twophase.gid import parse_gid
from troth.core.twophase.records import Commit
from troth.transactions.core import Core
from troth.transactions.report import UNREACHABLE, Report
from troth.transactions.resolver import Resolver

WITHIN_S = 2.0
"""For whoever is at it, and lives."""
PAUSE_S = 0.05


def see_applied(core: Core, gid: str, who: str) -> tuple[str, ...]:
    """Finish the branches of *gid*, which has committed, or wait for its owner, who may be about to; *who* asks. The
    participants in which one is, or may be, prepared still: recovery finishes them."""
    until = time.monotonic() + WITHIN_S
    while True:
        left = _left(core, gid, who)
        if not left or time.monotonic() >= until:
            return left
        core.waiting.flag().wait(PAUSE_S)


def _left(core: Core, gid: str, who: str) -> tuple[str, ...]:
    unread: dict[str, str] = {}
    try:
        record = next((each for each in core.unapplied(unread) if each.gid == gid), None)
    except UNREACHABLE:
        return _any(core)
    if record is not None:
        return _finish(core, record, who)
    found = parse_gid(gid)
    return _any(core) if found is not None and found[0].coordinator in unread else ()


def _any(core: Core) -> tuple[str, ...]:
    """Nobody knows where, but it is none of the last resource, which has decided."""
    return tuple([participant.name for participant in core.participants.all if participant.can_prepare])


def _finish(core: Core, record: Commit, who: str) -> tuple[str, ...]:
    report = Report()
    resolver = Resolver(core, report, who=who)
    try:
        left = tuple(resolver.finish(record))
    except UNREACHABLE:  # the log
        left = tuple([ref.participant for ref in record.branches])
    finally:
        try:
            resolver.leave_barrier()
        except BaseException:
            # Ctrl-C, perhaps twice (DESIGN.md): snapshots wait.
            try:
                resolver.leave_barrier()
            finally:
                resolver.leave_barrier()
            raise
    core.metrics.recovered["committed"] += len(report.committed)
    return left
