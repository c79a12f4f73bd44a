"""Cluster addresses as people write them.

::

    troth://host:port,host:port,[2001:db8::1]:port
    troth://unix:/run/troth/n1.sock,unix:/run/troth/n2.sock
    troth+tls://host:port,...?ca=ca.pem&cert=client.pem&key=client.key
"""

import ssl
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from troth.errors import UsageError
from troth.runtime.addresses import parse_address
from troth.runtime.files import check_readable

SCHEMES = ("troth", "troth+tls")
_EXAMPLE = "for example troth://127.0.0.1:7001,127.0.0.1:7002"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterUrl:
    """A parsed URL. Addresses are ``host:port`` or ``unix:/path``; TLS files are empty when not given."""

    addresses: tuple[str, ...]
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""

    def ssl_context(self) -> ssl.SSLContext | None:
        """What TLS connections are made with; None without TLS.

        Raises:
            UsageError: a file that cannot be read, or is not what it should be.
        """
        if not self.tls:
            return None
        try:
            check_readable(*filter(None, (self.ca, self.cert, self.key)))
            context = ssl.create_default_context(cafile=self.ca or None)
            if self.cert:
                context.load_cert_chain(self.cert, self.key or None)
        except OSError as error:
            raise UsageError(f"TLS material: {error}; `troth certs` makes a working set") from error
        return context


def is_url(text: str) -> bool:
    """Whether *text* is meant as the URL of a cluster.

    >>> is_url("troth://a:7001"), is_url("troth+tls://a:7001"), is_url("troth-2pc"), is_url("sqlite:///troth.db")
    (True, True, False, False)
    """
    return text.startswith(tuple(f"{scheme}://" for scheme in SCHEMES))


def parse_url(url: str) -> ClusterUrl:
    """Read a cluster URL.

    >>> parse_url("troth://a:7001,b:7001").addresses
    ('a:7001', 'b:7001')

    Raises:
        UsageError: not a URL of a cluster; the text says what is wrong with it.
    """
    given: object = url  # callers need not check types
    if not isinstance(given, str):
        raise UsageError(f"a URL is a text, {_EXAMPLE}, not {given!r:.60}")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in SCHEMES:
        raise UsageError(f"{url!r} does not start with troth:// or troth+tls://, {_EXAMPLE}")
    listed, _, query = rest.partition("?")
    addresses = tuple(dict.fromkeys(unquote(part) for part in listed.rstrip("/").split(",") if part))
    if not addresses:
        raise UsageError(f"{url!r} names no server, {_EXAMPLE}")
    for address in addresses:
        if "@" in address and not address.startswith("unix:"):
            raise UsageError(
                f"{url!r}: there are no users and passwords; certificates say who you are (troth+tls://)"
            )
        found = parse_address(address)
        if found.is_unix and not found.path.startswith("/"):
            raise UsageError(f"{address!r}: a unix socket is written unix:/absolute/path")
        if not found.is_unix and not (found.host and found.port):
            raise UsageError(f"{address!r} is not an address of a server; write host:port, {_EXAMPLE}")
    options = dict(parse_qsl(query))
    unknown = sorted(options.keys() - {"ca", "cert", "key"})
    if unknown:
        raise UsageError(f"{url!r}: unknown parameter {', '.join(unknown)}; there are ca, cert and key")
    if options and scheme != "troth+tls":
        raise UsageError(f"{url!r}: ca, cert and key belong to troth+tls://")
    if "key" in options and "cert" not in options:
        raise UsageError(f"{url!r}: key= is of no use without cert=")
    return ClusterUrl(
        addresses=addresses,
        tls=scheme == "troth+tls",
        ca=options.get("ca", ""),
        cert=options.get("cert", ""),
        key=options.get("key", ""),
    )
