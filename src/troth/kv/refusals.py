"""Refusals in etcd's own words.

Clients of etcd recognise an error by its text, so the texts are etcd's to the letter (with the capital letters
and the "etcdserver:" in front) wherever etcd has such a refusal. The code
beside each is that of a class in `troth.errors`.
"""

from troth.errors import (
    AnswerTooLarge,
    Compacted,
    FutureRevision,
    InvalidRequest,
    KeyNotFound,
    LeaseExists,
    LeaseNotFound,
    Overloaded,
    QuotaExceeded,
)
from troth.kv.requests import Failure

EMPTY_KEY = Failure(InvalidRequest.code, "etcdserver: key is not provided")
VALUE_PROVIDED = Failure(InvalidRequest.code, "etcdserver: value is provided")
LEASE_PROVIDED = Failure(InvalidRequest.code, "etcdserver: lease is provided")
TOO_MANY_OPS = Failure(InvalidRequest.code, "etcdserver: too many operations in txn request")
DUPLICATE_KEY = Failure(InvalidRequest.code, "etcdserver: duplicate key given in txn request")
INVALID_SORT_OPTION = Failure(InvalidRequest.code, "etcdserver: invalid sort option")
REQUEST_TOO_LARGE = Failure(InvalidRequest.code, "etcdserver: request is too large")
LEASE_TTL_TOO_LARGE = Failure(InvalidRequest.code, "etcdserver: too large lease TTL")
KEY_NOT_FOUND = Failure(KeyNotFound.code, "etcdserver: key not found")
LEASE_NOT_FOUND = Failure(LeaseNotFound.code, "etcdserver: requested lease not found")
LEASE_EXISTS = Failure(LeaseExists.code, "etcdserver: lease already exists")
NO_SPACE = Failure(QuotaExceeded.code, "etcdserver: mvcc: database space exceeded")
COMPACTED = Failure(Compacted.code, "etcdserver: mvcc: required revision has been compacted")
FUTURE_REVISION = Failure(FutureRevision.code, "etcdserver: mvcc: required revision is a future revision")
ANSWER_TOO_LARGE = Failure(
    AnswerTooLarge.code,
    "the answer would hold more than one may; nothing was done: ask for less at once (a smaller range, a limit, "
    "no prev_kv)",
)
TOUCHES_TOO_MUCH = Failure(
    InvalidRequest.code,
    "the transaction would look at more keys than one may; nothing was done: use smaller ranges, or delete outside "
    "of a transaction",
)
ANSWERS_TOO_LARGE = Failure(
    Overloaded.code,
    "together with others sent at the same moment the answer would hold more than one may; nothing was done: send "
    "it again",
)
WATCH_RANGE_EMPTY = Failure(InvalidRequest.code, "mvcc: watcher range is empty")
WATCH_ID_TAKEN = Failure(InvalidRequest.code, "mvcc: duplicate watch ID provided on the WatchStream")
TOO_MANY_WATCHES = Failure(Overloaded.code, "etcdserver: too many requests")


def at(failure: Failure, *, revision: int, compact_revision: int) -> Failure:
    """The same refusal, saying where the store stood."""
    return Failure(failure.code, failure.text, revision, compact_revision)
