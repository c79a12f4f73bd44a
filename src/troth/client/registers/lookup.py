"""Names of hosts, looked up within a call's time: the C library's lookup can not be given one, nor be interrupted."""

import ipaddress
import socket
import threading
import time
from concurrent.futures import Future

Found = list[str]


class Lookup:
    """The numeric addresses of one host. A lookup that hangs holds one thread, however many wait for it, and each of
    them waits no longer than it wants to."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._lock = threading.Lock()
        self._running: Future[Found] | None = None

    def addresses(self, deadline: float) -> Found:
        """At least one address, looked up anew.

        Raises:
            OSError: there is none, or it was not found by *deadline* (of the monotonic clock).
        """
        try:
            ipaddress.ip_address(self._host)
        except ValueError:
            pass
        else:
            return [self._host]
        with self._lock:
            running = self._running
            if running is None:
                running = self._running = Future()
                threading.Thread(
                    target=self._look, args=(running,), name=f"troth lookup {self._host}", daemon=True
                ).start()
        try:
            return running.result(max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise TimeoutError(f"the name {self._host} was not found in time") from None

    def _look(self, running: "Future[Found]") -> None:
        try:
            found = [
                str(where[0]) for *_, where in socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            ]
        except (OSError, UnicodeError) as error:
            with self._lock:
                self._running = None
            running.set_exception(OSError(f"{self._host}: {error}"))
        else:
            with self._lock:
                self._running = None
            running.set_result(found)
