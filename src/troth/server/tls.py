"""Certificates of a server: checked before anybody sees them, read anew on request; and handshakes that fail.

A listening socket is given an `Entrance` once, and each connection takes the contexts of the moment from there. So
certificates can be exchanged while a server runs; connections that stand go on under those they began with.

The loops keep to themselves that a handshake has failed: no protocol hears of it, and the other side sees nothing but a
closed connection. So whoever wonders why it is not let in has to be able to read it here.
"""

import logging
import ssl
import time
from collections import Counter
from typing import Any, Protocol, Self

from typing_extensions import override

from troth.errors import UsageError
from troth.runtime.files import check_readable

DAYS_LEFT_MIN = 30
"""A certificate that ends sooner is warned of."""

REASONS_MAX = 32
"""Kinds of failure that are told apart at one port; OpenSSL knows hundreds, and who dials may choose."""

OTHER = "other"
DAY_SECONDS = 86_400

_ROUNDS_MAX = 8
"""Turns of a handshake; TLS 1.2 takes three."""

_ADVICE = "check tls_ca, tls_cert and tls_key, or make them with `troth certs`"

_log = logging.getLogger("troth.tls")


class TlsSettings(Protocol):
    """What a configuration says of TLS."""

    @property
    def tls_ca(self) -> str: ...

    @property
    def tls_cert(self) -> str: ...

    @property
    def tls_key(self) -> str: ...

    @property
    def has_tls(self) -> bool: ...


def require_whole(settings: TlsSettings) -> None:
    """Raises UsageError: some of the three files are named, and others are not."""
    given = [settings.tls_ca, settings.tls_cert, settings.tls_key]
    if any(given) and not all(given):
        raise UsageError("TLS needs all of tls_ca, tls_cert and tls_key; `troth certs` makes a working set")


class Entrance(ssl.SSLContext):
    """What a listening socket is given in place of a context that could not be exchanged."""

    present: ssl.SSLContext
    """What the next connection is accepted with."""

    @override
    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        return self.present.wrap_bio(*arguments, **options)


class Certificates:
    """The certificates of one process. `dialing` is for connections that it makes itself."""

    @classmethod
    def of(cls, settings: TlsSettings) -> Self | None:
        """Those that *settings* name; None without TLS. Raises as `read`."""
        return cls(settings) if settings.has_tls else None

    def __init__(self, settings: TlsSettings) -> None:
        self._settings = settings
        self._entrances: dict[str, Entrance] = {}
        self._told: set[tuple[str, str]] = set()
        self.failures: Counter[tuple[str, str]] = Counter()
        """Handshakes that others began and that failed, by port and reason."""
        self.dialing: ssl.SSLContext
        self.ends_at: float
        """When our own certificate ends, as a time stamp."""
        self.read()

    def read(self) -> None:
        """Take the certificates as the files hold them now; if they are not good, nothing is changed.

        Raises:
            UsageError: a file is missing or not what it should be, or nobody would accept our certificate.
        """
        settings = self._settings
        try:
            check_readable(settings.tls_ca, settings.tls_cert, settings.tls_key)
            dialing = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=settings.tls_ca)
            dialing.minimum_version = ssl.TLSVersion.TLSv1_2
            dialing.load_cert_chain(settings.tls_cert, settings.tls_key)
            accepting = {port: self._accepting(port) for port in self._entrances}
            ends_at = _end_of_ours(settings)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"TLS: {error}; {_ADVICE}") from None
        self.dialing, self.ends_at = dialing, ends_at
        for port, context in accepting.items():
            self._entrances[port].present = context
        self._told.clear()
        if (days := self.days_left) < DAYS_LEFT_MIN:
            _log.warning(
                "the certificate of this server (%s) ends in %d days; replace the file, then send SIGHUP",
                settings.tls_cert,
                days,
            )

    def reload(self) -> None:
        """`read`, as somebody has asked for by a signal: say what came of it. Connections that stand are left alone."""
        try:
            self.read()
        except UsageError as error:
            _log.error("the certificates stay as they were: %s", error)
        else:
            _log.info("the certificates were read anew; ours is good for %d days", self.days_left)

    @property
    def days_left(self) -> int:
        """For how many days our own certificate is good."""
        return int((self.ends_at - time.time()) // DAY_SECONDS)

    def entrance(self, port: str) -> Entrance:
        """For the listening sockets of *port*, as people call it."""
        found = self._entrances.get(port)
        if found is None:
            found = self._entrances[port] = Entrance(ssl.PROTOCOL_TLS_SERVER)
            found.present = self._accepting(port)
        return found

    def _accepting(self, port: str) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=settings.tls_ca)
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
        certificates = self

        class Accepted(ssl.SSLObject):
            """Our end of a connection to *port*."""

            @override
            def do_handshake(self) -> None:
                try:
                    super().do_handshake()
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    raise
                except ssl.SSLError as error:
                    certificates._on_failed(port, error)
                    raise

        context.sslobject_class = Accepted
        return context

    def _on_failed(self, port: str, error: ssl.SSLError) -> None:
        reason = reason_of(error)
        if (port, reason) not in self.failures and sum(each == port for each, _ in self.failures) >= REASONS_MAX:
            reason = OTHER
        self.failures[port, reason] += 1
        if (port, reason) not in self._told:
            self._told.add((port, reason))
            _log.warning(
                "a TLS handshake on the %s port failed, so who dialed was not let in (%s);"
                " further ones for this reason are only counted",
                port,
                reason,
            )


def reason_of(error: ssl.SSLError) -> str:
    """Why a handshake failed, in OpenSSL's words, or ours where those say little."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    reason: str = getattr(error, "reason", None) or type(error).__name__  # one made without arguments has none
    return _IN_OTHER_WORDS.get(reason, reason.lower().replace("_", " "))


_IN_OTHER_WORDS = dict.fromkeys(
    ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"), "it does not speak TLS"
) | {"PEER_DID_NOT_RETURN_A_CERTIFICATE": "it shows no certificate"}


def _end_of_ours(settings: TlsSettings) -> float:
    """When our certificate ends. Found out as everybody else does, by a handshake (with ourselves, in memory).

    Raises:
        UsageError: nobody who trusts tls_ca would accept it.
    """
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(settings.tls_cert, settings.tls_key)
    asking = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=settings.tls_ca)
    asking.check_hostname = False
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = asking.wrap_bio(back, there), serving.wrap_bio(there, back, server_side=True)
    try:
        for end in ends * _ROUNDS_MAX:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            if end is ends[0]:
                break
    except ssl.SSLCertVerificationError as error:
        raise UsageError(
            f"TLS: nobody who trusts {settings.tls_ca} (tls_ca) accepts {settings.tls_cert} (tls_cert) as a server's"
            f" certificate: {error.verify_message}. See that this machine's clock is right, and {_ADVICE}"
        ) from None
    told = ends[0].getpeercert() or {}
    return ssl.cert_time_to_seconds(str(told["notAfter"]))
