"""Answering a Range: which versions, filtered, sorted and cut, in etcd's order of doing so.

etcd fetches the whole range, drops what the revision filters exclude, sorts, and then cuts at the limit. `count`
is the size of the range before all of that. Where neither a filter nor a sort stands between fetch and cut,
only what is returned is fetched.
"""

from collections.abc import Callable, Generator, Iterator
from heapq import merge
from itertools import chain, islice
from operator import attrgetter

import msgspec

from troth.kv import refusals
from troth.kv.keyspace import KeySpace
from troth.kv.requests import Failure, KeyValue, Range, SortOrder, SortTarget

STEP_KEYS = 8192
"""Keys that `range_steps` reads in one step: a few milliseconds."""

STEP_BYTES = 4 << 20
"""What `encoded_steps` encodes in one step, about."""

_KEY = SortTarget.KEY
_DESCEND = SortOrder.DESCEND

_encode_into = msgspec.msgpack.Encoder().encode_into
_ARRAY32 = b"\xdd"
"""MessagePack's array with a length of four bytes."""

# By SortTarget.
_SORT_KEYS: tuple[Callable[[KeyValue], int | bytes], ...] = (
    attrgetter("key"),
    attrgetter("version"),
    attrgetter("create_revision"),
    attrgetter("mod_revision"),
    attrgetter("value"),
)


def keys_looked_at(space: KeySpace, request: Range) -> int:
    """How many keys have to be looked at to answer *request*: what it costs, about. In the past, the dead ones too."""
    is_past = request.range_end and request.revision > 0
    return _live_read(space, request) + (space.order.dead_count(request.key, request.range_end) if is_past else 0)


def keys_charged(space: KeySpace, request: Range, enough: int) -> int:
    """`keys_looked_at` as far as all replicas agree about it: garbage, which may be freed or not, counts for nothing.
    Exact only below *enough*."""
    count = _live_read(space, request)
    if request.range_end and request.revision > 0 and count < enough:
        since = space.compact_revision
        count += space.order.dead_since(since, request.key, request.range_end, enough - count)
    return count


def _live_read(space: KeySpace, request: Range) -> int:
    """How many live keys have to be looked at."""
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
        count = 0
        pages: list[list[KeyValue]] = []
        key = request.key
        while names := space.order.names_page(key, request.range_end, STEP_KEYS):
            found = [version for name in names if (version := space.get_at(name, revision)) is not None]
            count += len(found)
            if not request.count_only:
                pages.append(_in_order(found, request))
            key = names[-1] + b"\0"
            yield
    finally:
        space.unpin(pin)
    return (yield from _merged(pages, count, request))


def _merged(
    pages: list[list[KeyValue]], count: int, request: Range
) -> Generator[None, None, tuple[list[KeyValue], int, bool]]:
    """*pages*, each of them filtered and sorted, as one; up to the limit."""
    backwards = request.sort_order == _DESCEND
    passed_count = sum(map(len, pages))
    ordered: Iterator[KeyValue]
    if request.sort_target == _KEY:
        ordered = chain.from_iterable(reversed(pages) if backwards else pages)
    else:
        ordered = merge(*pages, key=_SORT_KEYS[request.sort_target], reverse=backwards)
    limit = max(0, request.limit) or passed_count
    kvs: list[KeyValue] = []
    while piece := list(islice(ordered, min(STEP_KEYS, limit - len(kvs)))):
        kvs += _bare(piece) if request.keys_only else piece
        yield
    # As etcd: what a filter has dropped counts for `count`, and not for whether there is more.
    return kvs, count, passed_count > limit


def encoded_steps(kvs: list[KeyValue], bytes_max: int) -> Generator[None, None, bytearray | None]:
    """*kvs* in the form in which they travel, made in short steps; None: they are larger than *bytes_max*."""
    body = bytearray(_ARRAY32 + len(kvs).to_bytes(4, "big"))
    count, step_ends = 0, STEP_BYTES
    for kv in kvs:
        _encode_into(kv, body, -1)
        count += 1
        if count >= STEP_KEYS or len(body) >= step_ends:
            if len(body) > bytes_max:
                return None
            count, step_ends = 0, len(body) + STEP_BYTES
            yield
    return body if len(body) <= bytes_max else None


def _arranged(found: list[KeyValue], count: int, request: Range) -> tuple[list[KeyValue], int, bool]:
    """*found*, the versions of a range of *count* in key order, as *request* wants them."""
    limit = max(0, request.limit)
    found = _in_order(found, request)
    more = bool(limit) and (len(found) if _is_filtered(request) else count) > limit
    if more:
        del found[limit:]
    return _bare(found) if request.keys_only else found, count, more


def _in_order(found: list[KeyValue], request: Range) -> list[KeyValue]:
    """Those of *found*, which stand in key order, that pass the filters, sorted."""
    # "No order" by anything but the key means ascending, as in etcd.
    backwards = request.sort_order == _DESCEND
    if _is_filtered(request):
        found = [version for version in found if _passes(version, request)]
    if request.sort_target != _KEY:
        # Python's sort keeps equal elements in key order, with reverse=True as well.
        found.sort(key=_SORT_KEYS[request.sort_target], reverse=backwards)
    elif backwards:
        found.reverse()
    return found


def _bare(found: list[KeyValue]) -> list[KeyValue]:
    return [KeyValue(kv.key, kv.create_revision, kv.mod_revision, kv.version, b"", kv.lease) for kv in found]


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
