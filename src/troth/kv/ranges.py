"""Answering a Range: which versions, filtered, sorted and cut, in etcd's order of doing so.

etcd fetches the whole range, drops what the revision filters exclude, sorts, and then cuts at the limit. `count`
is the size of the range before all of that. Where neither a filter nor a sort stands between fetch and cut,
only what is returned is fetched.
"""

from collections.abc import Callable, Generator
from operator import attrgetter

from troth.kv import refusals
from troth.kv.keyspace import KeySpace
from troth.kv.requests import Failure, KeyValue, Range, SortOrder, SortTarget

STEP_KEYS = 8192
"""Keys that `range_steps` reads in one step: a few milliseconds."""

_KEY = SortTarget.KEY
_DESCEND = SortOrder.DESCEND

# By SortTarget.
_SORT_KEYS: tuple[Callable[[KeyValue], int | bytes], ...] = (
    attrgetter("key"),
    attrgetter("version"),
    attrgetter("create_revision"),
    attrgetter("mod_revision"),
    attrgetter("value"),
)


def keys_read(space: KeySpace, request: Range) -> int:
    """How many keys have to be looked at to answer *request*: what it costs, about."""
    is_past = request.revision > 0
    if not request.range_end or (request.count_only and not is_past):
        return 1
    count = space.live_count(request.key, request.range_end)
    if 0 < request.limit < count and request.sort_target == _KEY and not is_past and not _is_filtered(request):
        return request.limit
    return count


def unreadable(space: KeySpace, revision: int) -> Failure | None:
    """Why *revision* cannot be read; None if it can. 0 and below mean the current one."""
    if revision > space.revision:
        return refusals.FUTURE_REVISION
    if 0 < revision < space.compact_revision:
        return refusals.COMPACTED
    return None


def read_range(space: KeySpace, request: Range, revision: int | None) -> tuple[list[KeyValue], int, bool]:
    """The versions that *request* asks for, the size of its range, and whether the limit cut something off.

    Args:
        space: where to read.
        request: its ``revision`` is not looked at.
        revision: read what was visible right after it; None: the present, also in the middle of a transaction.
    """
    key, range_end = request.key, request.range_end
    if request.count_only:
        if revision is None:
            return [], space.live_count(key, range_end), False
        return [], len(space.live_at(key, range_end, revision)), False

    limit = max(0, request.limit)
    if revision is None and limit and request.sort_target == _KEY and not _is_filtered(request):
        count = space.live_count(key, range_end)
        found = space.live(key, range_end, limit, last=request.sort_order == _DESCEND)
    else:
        found = space.live(key, range_end) if revision is None else space.live_at(key, range_end, revision)
        count = len(found)
    return _arranged(found, count, request)


def range_steps(space: KeySpace, request: Range) -> Generator[None, None, tuple[list[KeyValue], int, bool]]:
    """`read_range` of very many keys in short steps, between which anything may happen: what is read is kept from the
    first step, which does nothing else, to the last, or `close`.

    *request* has a range_end, and its revision can be read.
    """
    revision = request.revision if request.revision > 0 else space.revision
    pin = space.pin(revision)
    try:
        yield
        found: list[KeyValue] = []
        key = request.key
        while names := space.names_page(key, request.range_end, STEP_KEYS):
            found += [version for name in names if (version := space.get_at(name, revision)) is not None]
            key = names[-1] + b"\0"
            yield
    finally:
        space.unpin(pin)
    count = len(found)
    return ([], count, False) if request.count_only else _arranged(found, count, request)


def _arranged(found: list[KeyValue], count: int, request: Range) -> tuple[list[KeyValue], int, bool]:
    """*found*, the versions of a range of *count* in key order, as *request* wants them."""
    limit = max(0, request.limit)
    # "No order" by anything but the key means ascending, as in etcd.
    by_key = request.sort_target == _KEY
    backwards = request.sort_order == _DESCEND
    filtered = _is_filtered(request)
    if filtered:
        found = [version for version in found if _passes(version, request)]
    if not by_key:
        # Python's sort keeps equal elements in key order, with reverse=True as well.
        found.sort(key=_SORT_KEYS[request.sort_target], reverse=backwards)
    elif backwards:
        found.reverse()
    more = bool(limit) and (len(found) if filtered else count) > limit
    if more:
        del found[limit:]
    if request.keys_only:
        found = [KeyValue(kv.key, kv.create_revision, kv.mod_revision, kv.version, b"", kv.lease) for kv in found]
    return found, count, more


def _is_filtered(request: Range) -> bool:
    return bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def _passes(version: KeyValue, request: Range) -> bool:
    """Whether *version* lies within the revision bounds, which are inclusive; 0 means none."""
    mod, create = version.mod_revision, version.create_revision
    return (
        (not request.min_mod_revision or mod >= request.min_mod_revision)
        and (not request.max_mod_revision or mod <= request.max_mod_revision)
        and (not request.min_create_revision or create >= request.min_create_revision)
        and (not request.max_create_revision or create <= request.max_create_revision)
    )
