"""The retry policy: one table, keyed by error class.

`NotApplied` answers one question for us (the request did not happen through this sending of it), so it may be sent
again as soon as that can help. `OutcomeUnknown` may be retried only under the same request id. What is not in the
table goes to the caller.
"""

import contextlib
import ssl
from collections.abc import Iterator
from enum import Enum

from troth import errors
from troth.errors import TrothError


class Action(Enum):
    """What the client does about a refusal before the caller's time is up."""

    FOLLOW = "send it to the leader named; if none is named, wait for one or try again in a moment"
    BACK_OFF = "send it again after a pause that grows"
    SAME_ID = "send it again at once, if the request carries an id that makes it apply once; else tell the caller"
    RENEW_SESSION = "open another session, and send in it what was certainly never applied"
    FAIL = "tell the caller"


POLICY: dict[type[TrothError], Action] = {
    errors.NotLeader: Action.FOLLOW,
    errors.Overloaded: Action.BACK_OFF,
    errors.Unavailable: Action.BACK_OFF,
    errors.SessionExpired: Action.RENEW_SESSION,
    errors.OutcomeUnknown: Action.SAME_ID,
    TrothError: Action.FAIL,
}

FOLLOW_PAUSE_S = (0.005, 0.020)
"""Nobody leads: an election takes about this long to settle, and a push will tell us sooner (with jitter)."""

BACK_OFF_S = 0.02
BACK_OFF_MAX_S = 0.5


def _classes(root: type[TrothError]) -> dict[str, type[TrothError]]:
    """Each class by its own code; one that has inherited its code (some layer's private kind) is not named by it."""
    found = {root.code: root}
    for child in root.__subclasses__():
        inherited = child.code == root.code
        found.update({code: kind for code, kind in _classes(child).items() if not (inherited and kind is child)})
    return found


_CLASS_OF_CODE = _classes(TrothError)


def class_of(code: str) -> type[TrothError]:
    """The class named by *code*. A code that this version does not know might mean anything: OutcomeUnknown."""
    return _CLASS_OF_CODE.get(code, errors.OutcomeUnknown)


def action_for(kind: type[TrothError]) -> Action:
    """The table's row for *kind* or its nearest ancestor."""
    for ancestor in kind.__mro__:
        if ancestor in POLICY:
            return POLICY[ancestor]
    return Action.FAIL


def is_definite(kind: type[TrothError]) -> bool:
    """Whether *kind* says that the request was certainly not applied by the sending it answers."""
    return not issubclass(kind, errors.OutcomeUnknown)


def error_of(code: str, text: str, *, compact_revision: int = 0) -> TrothError:
    """The error that a server's *code* and *text* stand for."""
    kind = class_of(code)
    if kind is errors.NotLeader:
        return errors.NotLeader()
    if issubclass(kind, errors.Compacted):
        return kind(text, compact_revision)
    if kind is errors.Corrupt:
        return errors.Corrupt(text, path="")
    return kind(text)


def pause_s(action: Action, attempt: int, chance: float) -> float:
    """How long to wait before sending again, the *attempt*-th time (from 0); *chance* in [0, 1) is the jitter."""
    if action is Action.FOLLOW:
        low, high = FOLLOW_PAUSE_S
        return low + (high - low) * chance
    # Half fixed, half random: retries of many clients drift apart, and none comes back at once.
    longest = min(BACK_OFF_MAX_S, BACK_OFF_S * 2.0 ** min(attempt, 8))
    return longest * (0.5 + 0.5 * chance)


def ungreeted(who: str, *, is_tls: bool) -> str:
    """What a connection that ended before its greeting came most likely means."""
    wanted = "another certificate (?cert=&key=)" if is_tls else "TLS (troth+tls://...?ca=&cert=&key=)"
    return f"the {who} closed the connection without a greeting; does it want {wanted}, or is it still starting?"


@contextlib.contextmanager
def in_words(tls: ssl.SSLContext | None) -> Iterator[None]:
    """Say of a TLS handshake that fails in this block what can be done about it.

    Raises:
        ConnectionError: it failed; or whatever else comes out of the block.
    """
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        text = f"the server's certificate is not accepted ({error.verify_message}); check ?ca= and the address"
        raise ConnectionError(text) from error
    except (ssl.SSLError, ConnectionResetError) as error:
        if tls is None or "ALERT" in (getattr(error, "reason", "") or ""):  # only a TLS port sends alerts
            raise
        told = f" ({error})" if str(error) else ""
        raise ConnectionError(
            f"the TLS handshake failed{told}; is this port one without TLS (troth://)?"
        ) from error
