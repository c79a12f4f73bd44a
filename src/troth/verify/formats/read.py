"""Finding out which format a text is in, and reading it into a `History`."""

import re
import zlib
from collections.abc import Callable
from typing import Final

from troth.errors import DecodeError, UsageError
from troth.verify.formats import awdit, edn, jepsen_log, maps
from troth.verify.history import History, Reading

FORMATS: Final = (
    "troth-jsonl",
    "jepsen-log",
    "porcupine-kv",
    "jepsen-edn",
    "jepsen-json",
    "elle-edn",
    "elle-json",
    "awdit",
)
"""Names that `read_history` accepts as *format* and sets as `History.format` ("empty" aside)."""

_AWDIT_LINE: Final = re.compile(r"^\s*(?:[wrWR]\s+\S+\s+\S+|[wr]\([^(),]*(?:,[^(),]*){3}\)|-{3,}|={3,})\s*$")
_KV_LINE: Final = re.compile(r":f\s+:(?:get|put|append)\b[^\n}]*:key\s|:key\s[^\n}]*:f\s+:(?:get|put|append)\b")
_LOG_START: Final = re.compile(r"(?:\d{4}-\d\d-\d\d|INFO|WARN|ERROR|DEBUG|TRACE)\b")
_LOG_LINE: Final = re.compile(r"^[^\n\"({]*\bjepsen\.util\s*[-:]?\s+\S+\s+:\w+\s+:", re.MULTILINE)
_TXN: Final = re.compile(
    r":f\s+:txn\b|\"f\"\s*:\s*\":?txn\"|\[\s*\[\s*\":?(?:append|r|w)\"|\[\s*\[\s*:(?:append|r|w)\s"
)
_JSON_START: Final = re.compile(r"\[?\s*\{\s*(?:\}|\"(?:[^\"\\]|\\.)*\"(?::|\s+:\s|\s*$))")
"""EDN, too, may have strings for names, but no colon that stands by itself."""
_TORN: Final = re.compile(r"\s*(?:\{(?:.*[^}\s])?|[^\"{]*\bjepsen\.util\b.*|[wrWR]\b.*)")
"""What may be the beginning of a line of a format that has an event a line."""
_COMMENT: Final = re.compile(r"\s*(?:;|#(?:\s|$))")
"""EDN's, and AWDIT's where it cannot be a value of EDN."""
_SAMPLE: Final = 20_000


def detect(text: str) -> str:
    """The name of the format of *text*: one of `FORMATS`, or "empty".

    Raises:
        DecodeError: it looks like none of them.
    """
    head = text.lstrip("\ufeff \t\r\n,")
    if not head:
        return "empty"
    if _LOG_START.match(head) or _LOG_LINE.search(head[:_SAMPLE]):
        return "jepsen-log"
    sample = head[:_SAMPLE]
    lines = [line for line in sample.splitlines() if line.strip() and not _COMMENT.match(line)]
    first = lines[0].strip() if lines else ""
    if _JSON_START.match(head):
        if '"troth_history"' in first:
            return "troth-jsonl"
        return "elle-json" if _TXN.search(sample) else "jepsen-json"
    if re.match(r"\[\s*\]\s*$", head):
        return "jepsen-json"
    if first and first[0] in "[({#":
        if _KV_LINE.search(sample):
            return "porcupine-kv"
        return (
            "elle-edn" if _TXN.search(sample) and not re.search(r"\[:(?:read|write)\s", sample) else "jepsen-edn"
        )
    if not lines:
        return "empty"
    if _AWDIT_LINE.match(lines[0]):
        return "awdit"
    raise DecodeError(
        f"{edn.where(text, len(text) - len(head))}: found {first[:40]!r}, expected one of: a JSON or EDN event, a line "
        f"of a jepsen.util log, or an AWDIT line (w k v, r k v, ---, ===)"
    )


def read_history(
    data: str | bytes, name: str = "", *, format: str | None = None, reading: Reading | None = None
) -> History:
    """Read a history in any of the formats of `troth.verify.formats`.

    Args:
        data: the whole text; bytes are taken as UTF-8, or as gzip of it.
        name: what to call it in errors, usually the file's name.
        format: one of `FORMATS`; found out from the text when None.
        reading: overrides how the format's ambiguous lines are understood.

    Raises:
        DecodeError: names line, column and what was expected there.
        UsageError: there is no such *format*.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"no history format is called {format!r}; there are {', '.join(FORMATS)}")
    try:
        text = _text(data)
        chosen = detect(text) if format is None else format
        history = _read(text, chosen)
    except DecodeError as error:
        if not name:
            raise
        raise DecodeError(f"{name}: {error}") from error
    except ValueError as error:
        # Python reads no integer of more than some thousand digits.
        raise DecodeError(f"{name or 'history'}: {error}") from error
    except RecursionError as error:
        raise DecodeError(f"{name or 'history'}: nested too deeply, expected flat events") from error
    history.format = chosen
    return history if reading is None else history.with_reading(reading)


def _read(text: str, chosen: str) -> History:
    """Read, without the last line should whoever wrote it have been stopped in the middle of it."""
    reader = _READERS[chosen]
    try:
        return reader(text)
    except DecodeError:
        whole, _, last = text.rpartition("\n")
        history = _or_none(reader, whole) if _TORN.fullmatch(last) and whole.strip() else None
        if history is None or _or_none(reader, last) is not None:
            raise
        history.remarks += (f"passed over, since the file ends within it: the last line, {last.strip()[:40]!r}",)
        return history


def _or_none(reader: Callable[[str], History], text: str) -> History | None:
    try:
        return reader(text)
    except DecodeError:
        return None


def _text(data: str | bytes) -> str:
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    if data.startswith(b"\x1f\x8b"):
        data = _unzipped(data)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise DecodeError(
            f"line {line}, column {column}: found byte 0x{data[error.start]:02x}, expected UTF-8"
        ) from None


def _unzipped(data: bytes) -> bytes:
    """The content of a gzip file, which may be several put one after the other."""
    whole = b""
    while data:
        part = zlib.decompressobj(wbits=31)
        try:
            whole += part.decompress(data)
        except zlib.error as error:
            raise DecodeError(f"byte {len(whole)} of the content: {error}, expected gzip") from None
        if not part.eof:
            raise DecodeError(f"byte {len(whole)} of the content: the gzip file ends here, expected its end mark")
        data = part.unused_data.lstrip(b"\0")
    return whole


def _empty(text: str) -> History:
    return History((), timeline=[])


_READERS: Final[dict[str, Callable[[str], History]]] = {
    "empty": _empty,
    "troth-jsonl": maps.read_json,
    "jepsen-log": jepsen_log.read,
    "porcupine-kv": maps.read_kv,
    "jepsen-edn": maps.read_edn,
    "jepsen-json": maps.read_json,
    "elle-edn": maps.read_edn,
    "elle-json": maps.read_json,
    "awdit": awdit.read,
}
