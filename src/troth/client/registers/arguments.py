"""What callers of a registers' client may give it, checked and made bytes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from urllib.parse import unquote

from troth.client.operations import Text, as_bytes
from troth.client.url import parse_url
from troth.core.register.codec import KEY_BYTES_MAX, VALUE_BYTES_MAX
from troth.core.register.messages import RESERVED
from troth.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Addresses, and the URL's TLS if there is any."""

    addresses: tuple[str, ...]
    url: str = ""


def where(acceptors: str | Sequence[str]) -> Where:
    """Addresses out of what a caller gave: a URL, or a list of ``host:port`` (or ``unix:/path``).

    Raises:
        UsageError: neither, or an address twice.
    """
    if isinstance(acceptors, str) and "://" in acceptors:
        return Where(addresses=_addresses(acceptors), url=acceptors)
    try:
        named = acceptors.split(",") if isinstance(acceptors, str) else list(acceptors)
    except TypeError:
        named = []
    if not named or not all(isinstance(each, str) for each in named):
        raise UsageError("name the acceptors, for example PaxosClient(['h1:7001', 'h2:7001', 'h3:7001'])")
    return Where(addresses=_addresses("troth://" + ",".join(named)))


def _addresses(url: str) -> tuple[str, ...]:
    addresses = parse_url(url).addresses
    given = url.partition("://")[2].partition("?")[0].rstrip("/")
    named = [unquote(each) for each in given.split(",")]
    for address in addresses:
        if named.count(address) > 1:
            raise UsageError(f"{address} is given twice: name each acceptor once")
    return addresses


def as_key(text: Text) -> bytes:
    """A register's name.

    Raises:
        UsageError: empty, too long, or one of the protocol's own.
    """
    key = as_bytes(text)
    if not 0 < len(key) <= KEY_BYTES_MAX or key.startswith(RESERVED):
        raise UsageError(f"a register's key has 1 to {KEY_BYTES_MAX} bytes and does not begin with a zero byte")
    return key


def as_value(text: Text) -> bytes:
    """A register's value.

    Raises:
        UsageError: too large.
    """
    value = as_bytes(text)
    if len(value) > VALUE_BYTES_MAX:
        raise UsageError(f"a register holds up to {VALUE_BYTES_MAX} bytes, not {len(value)}")
    return value


def as_swap(expected: Text | None, value: Text | None) -> tuple[bytes | None, bytes | None]:
    """What a comparison expects, and what is written if it holds.

    Raises:
        UsageError: nothing and nothing; or one is too large.
    """
    if expected is None and value is None:
        raise UsageError("a cas that expects nothing and writes nothing would change nothing: use get")
    return None if expected is None else as_value(expected), None if value is None else as_value(value)


def as_function(function: Callable[[bytes | None], Text | None]) -> Callable[[bytes | None], bytes | None]:
    """*function*, its answer made bytes (None: the register is deleted).

    Raises:
        UsageError: it is no function, or one that would have to be awaited.
    """
    if not _is_plain(function):
        raise UsageError(
            f"change takes a plain function (no coroutine) of what the register holds, not {function!r:.60}"
        )

    def wrapped(held: bytes | None) -> bytes | None:
        wanted = function(held)
        return None if wanted is None else as_value(wanted)

    return wrapped


def _is_plain(function: object) -> bool:
    return callable(function) and not iscoroutinefunction(function)
