"""What a caller writes down before it is sent: keys, spans of keys, operations and comparisons of a transaction.

Keys and values may be given as str (sent as UTF-8) or bytes; everything below this module is bytes.
"""

from collections.abc import Sequence
from typing import NoReturn, TypeAlias

from typing_extensions import override

from troth.errors import UsageError
from troth.kv.requests import (
    Compare,
    CompareResult,
    CompareTarget,
    DeleteRange,
    Operation,
    Range,
    SortOrder,
    SortTarget,
    no_truth,
)
from troth.kv.requests import Put as PutRequest
from troth.kv.requests import Txn as TxnRequest

Text: TypeAlias = str | bytes
"""A key or a value as callers may write it."""

ALL_FROM = b"\x00"
"""As `range_end`: everything from the key on. As key and `range_end`: everything."""


def as_bytes(text: Text) -> bytes:
    """*text* as it is stored. What Python makes of a command line's bytes that are not UTF-8 becomes those bytes again.

    Raises:
        UsageError: neither str nor bytes, or no text that has bytes.
    """
    if isinstance(text, str):
        try:
            return text.encode(errors="surrogateescape")
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{text!r:.60} is not text that UTF-8 can carry ({error.reason}); give bytes"
            ) from None
    if isinstance(text, bytes):
        return text if type(text) is bytes else bytes(text)  # np.bytes_, say, which no codec knows
    raise UsageError(f"keys and values are str or bytes, not {type(text).__name__}: {text!r:.60}")


def lease_id(lease: object) -> int:
    """*lease* as it stands in a request.

    Raises:
        UsageError: no number, such as the `Lease` itself.
    """
    if isinstance(lease, int):
        return int(lease)
    raise UsageError(f"lease= takes the number of a lease (lease.id), not {type(lease).__name__}")


def prefix_end(prefix: bytes) -> bytes:
    """The `range_end` that makes a span of all keys that start with *prefix*.

    >>> prefix_end(b"a/"), prefix_end(b"a\\xff")
    (b'a0', b'b')
    """
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return ALL_FROM
    return stripped[:-1] + bytes([stripped[-1] + 1])


def span(key: Text, range_end: Text | None, prefix: Text | None) -> tuple[bytes, bytes]:
    """(key, range_end) of one key, of ``[key, range_end)``, or of all keys that start with *prefix*.

    Raises:
        UsageError: a prefix together with a key or a range_end.
    """
    if prefix is None:
        return as_bytes(key), b"" if range_end is None else as_bytes(range_end)
    if key or range_end is not None:
        raise UsageError("prefix= stands alone: leave key and range_end out")
    start = as_bytes(prefix)
    return start or ALL_FROM, prefix_end(start)


# ---- operations of a transaction ---------------------------------------------------------------------------
# These four are functions, but read like the values that they make; hence their spelling.


def Put(  # noqa: N802
    key: Text,
    value: Text = b"",
    *,
    lease: int = 0,
    prev_kv: bool = False,
    ignore_value: bool = False,
    ignore_lease: bool = False,
) -> PutRequest:
    """Write one key.

    >>> Put("a", "1").value
    b'1'
    """
    return PutRequest(as_bytes(key), as_bytes(value), lease_id(lease), prev_kv, ignore_value, ignore_lease)


def Get(  # noqa: N802
    key: Text = b"",
    range_end: Text | None = None,
    *,
    prefix: Text | None = None,
    limit: int = 0,
    revision: int = 0,
    sort_order: SortOrder = SortOrder.NONE,
    sort_target: SortTarget = SortTarget.KEY,
    keys_only: bool = False,
    count_only: bool = False,
) -> Range:
    """Read one key, or a span of them."""
    start, end = span(key, range_end, prefix)
    return Range(start, end, limit, revision, sort_order, sort_target, keys_only, count_only)


def Delete(  # noqa: N802
    key: Text = b"", range_end: Text | None = None, *, prefix: Text | None = None, prev_kv: bool = False
) -> DeleteRange:
    """Delete one key, or a span of them."""
    start, end = span(key, range_end, prefix)
    return DeleteRange(start, end, prev_kv)


def Txn(  # noqa: N802
    compare: Sequence[Compare] = (), success: Sequence[Operation] = (), failure: Sequence[Operation] = ()
) -> TxnRequest:
    """If all of *compare* hold do *success*, else *failure*; may itself be an operation of a transaction.

    Raises:
        UsageError: something else than a comparison or an operation was given.
    """
    try:
        parts = tuple(compare), tuple(success), tuple(failure)
    except TypeError as error:
        raise UsageError(f"a transaction takes lists of comparisons and of operations: {error}") from None
    for condition in parts[0]:
        if not isinstance(condition, Compare):
            raise UsageError(f'compare= takes comparisons such as troth.value("k") == "v", not {condition!r:.80}')
    for operation in (*parts[1], *parts[2]):
        if not isinstance(operation, PutRequest | Range | DeleteRange | TxnRequest):
            raise UsageError(f'a transaction takes operations such as troth.Put("k", "v"), not {operation!r:.80}')
    return TxnRequest(*parts)


# ---- comparisons -------------------------------------------------------------------------------------------


class Comparable:
    """One side of a comparison: a property of a key (or of every key of a span).

    >>> condition = version("k") > 0
    >>> condition.key, condition.target.name, condition.result.name, condition.number
    (b'k', 'VERSION', 'GREATER', 0)
    """

    __slots__ = ("_end", "_key", "_target")
    __hash__ = None  # type: ignore[assignment]  # == makes a comparison, so hashing has no meaning

    def __init__(self, target: CompareTarget, key: Text, range_end: Text | None, prefix: Text | None) -> None:
        self._target = target
        self._key, self._end = span(key, range_end, prefix)

    def _against(self, result: CompareResult, operand: Text | int) -> Compare:
        if self._target is CompareTarget.VALUE:
            if isinstance(operand, int):
                raise UsageError(f"a value is compared to str or bytes, not to the number {operand}")
            return Compare(self._key, self._target, result, value=as_bytes(operand), range_end=self._end)
        if not isinstance(operand, int):
            raise UsageError(f"{self._target.name.lower()} is compared to a number, not to {operand!r:.60}")
        return Compare(self._key, self._target, result, number=int(operand), range_end=self._end)

    def __bool__(self) -> NoReturn:
        raise no_truth()

    @override
    def __eq__(self, operand: Text | int) -> Compare:  # type: ignore[override]
        return self._against(CompareResult.EQUAL, operand)

    @override
    def __ne__(self, operand: Text | int) -> Compare:  # type: ignore[override]
        return self._against(CompareResult.NOT_EQUAL, operand)

    def __gt__(self, operand: Text | int) -> Compare:
        return self._against(CompareResult.GREATER, operand)

    def __lt__(self, operand: Text | int) -> Compare:
        return self._against(CompareResult.LESS, operand)


def value(key: Text = b"", range_end: Text | None = None, *, prefix: Text | None = None) -> Comparable:
    """The value of *key*, to be compared: ``value("k") == "v"``. An absent key has no value: never true."""
    return Comparable(CompareTarget.VALUE, key, range_end, prefix)


def version(key: Text = b"", range_end: Text | None = None, *, prefix: Text | None = None) -> Comparable:
    """How often *key* was written since it was created; 0 when it does not exist."""
    return Comparable(CompareTarget.VERSION, key, range_end, prefix)


def create_revision(key: Text = b"", range_end: Text | None = None, *, prefix: Text | None = None) -> Comparable:
    """The revision that created *key*; 0 when it does not exist."""
    return Comparable(CompareTarget.CREATE, key, range_end, prefix)


def mod_revision(key: Text = b"", range_end: Text | None = None, *, prefix: Text | None = None) -> Comparable:
    """The revision that last wrote *key*; 0 when it does not exist."""
    return Comparable(CompareTarget.MOD, key, range_end, prefix)


def lease(key: Text = b"", range_end: Text | None = None, *, prefix: Text | None = None) -> Comparable:
    """The id of the lease that *key* is attached to; 0 for none."""
    return Comparable(CompareTarget.LEASE, key, range_end, prefix)
