"""A headless Chromium, driven over its debugging pipe: pages as people see them, with a mouse and a keyboard."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ANSWER_SECONDS_MAX = 60.0

_FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
]

# It reads commands from descriptor 3 and writes answers to 4.
_BEGIN = """
import fcntl, os, sys
given = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 10) for word in sys.argv[1:3]]
for place, descriptor in enumerate(given, 3):
    os.dup2(descriptor, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


def installed() -> str | None:
    """Where Chromium is, if it is."""
    return shutil.which("chromium")


class Page:
    """One tab. What the page complains of, and what it asks the network for, is kept."""

    def __init__(self, process: "subprocess.Popen[bytes]", sending: int, receiving: int) -> None:
        self._process = process
        self._sending = sending
        self._receiving = receiving
        self._heard = b""
        self._number = 0
        self._session: str | None = None
        self.complaints: list[str] = []
        self.asked_for: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its answer."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._sending, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, path: Path) -> None:
        """Load a file, and wait until it is loaded."""
        answer = self.call("Page.navigate", url=path.as_uri())
        assert "errorText" not in answer, answer
        while self.value("document.readyState") != "complete" or self.value("location.href") != path.as_uri():
            pass

    def value(self, expression: str) -> Any:
        """What a JavaScript *expression* is, as JSON."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def middle(self, expression: str) -> tuple[float, float]:
        """Where the element that *expression* is, is on the screen, once it has been scrolled there."""
        box = self.value(
            f"(e => {{ e.scrollIntoView({{ block: 'center', inline: 'center' }}); const b = e.getBoundingClientRect();"
            f" return [b.x + b.width / 2, b.y + b.height / 2] }})({expression})"
        )
        return box[0], box[1]

    def point(self, x: float, y: float) -> None:
        """Move the mouse there."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, expression: str) -> None:
        """Click on the element that *expression* is."""
        x, y = self.middle(expression)
        self.point(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press and release a key ("ArrowRight")."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self) -> bytes:
        """The page as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._heard:
            assert select.select([self._receiving], [], [], ANSWER_SECONDS_MAX)[0], "chromium says nothing"
            part = os.read(self._receiving, 1 << 16)
            assert part, f"chromium ended: {self._process.poll()}"
            self._heard += part
        first, _, self._heard = self._heard.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        parameters = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                self.complaints.append(parameters["entry"]["text"])
            case "Network.requestWillBeSent":
                self.asked_for.append(parameters["request"]["url"])
        return message


@contextmanager
def chromium(width: int = 1200, height: int = 900) -> Iterator[Page]:
    """A browser with one empty page, gone at the end."""
    program = installed()
    assert program is not None
    to_read, our_sending = os.pipe()
    our_receiving, to_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="troth-chromium-", ignore_cleanup_errors=True) as profile:
        words = [sys.executable, "-c", _BEGIN, str(to_read), str(to_write), program, *_FLAGS]
        process = subprocess.Popen(
            [*words, f"--user-data-dir={profile}", f"--window-size={width},{height}"],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        try:
            yield Page(process, our_sending, our_receiving)
        finally:
            os.close(our_sending)
            process.terminate()
            try:
                process.wait(ANSWER_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(our_receiving)
