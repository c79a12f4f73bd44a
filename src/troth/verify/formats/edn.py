"""A small reader and writer for EDN, the notation that Jepsen, Knossos and Elle write their histories in.

Supported: nil, booleans, integers (also ``7N`` and Clojure's ``0x1f``), floats (also ``1.5M``), ratios, strings,
characters, keywords, symbols, lists, vectors, maps, sets, ``;`` comments, ``#_`` discards and tags
(``#inst "..."``, records such as ``#jepsen.history.Op{...}``, ``#:space{...}``), of which the tag is dropped and the
value kept, ``##Inf``, and Clojure's ``#"..."``, which is taken for the text of the expression. Commas are white space.
Source: the EDN specification, github.com/edn-format/edn.

What comes out can be hashed, apart from maps: lists and vectors are tuples, sets are frozensets, keywords are
`Keyword` (a str without its colon). Maps are dicts while they are being read; `freeze` turns them into `Record`.
"""

import re
from collections.abc import Iterator
from math import isfinite
from typing import Final

from typing_extensions import override

from troth.errors import DecodeError, UsageError


class Keyword(str):
    """An EDN keyword, without its colon; equal to the plain string of the same text."""

    __slots__ = ()

    @override
    def __repr__(self) -> str:
        return ":" + str(self)


class Record(frozenset[tuple[object, object]]):
    """A map that can be hashed: the set of its (key, value) pairs. `dict(record)` gives the map back."""

    __slots__ = ()


# White space and comments fit before a token in one way only; with several, what fits no token takes for ever.
_TOKEN: Final = re.compile(
    r"""[\s,]*(?:;[^\n]*(?:\n|\Z)[\s,]*)*(?:
    (?P<open>\#\{|[\[({])|(?P<close>[\])}])
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<regex>\#"(?:[^"\\]|\\.)*")
    |(?P<int>[+-]?(?:0[xX][0-9a-fA-F]+|\d+)N?(?=[\s,;"\[\](){}]|$))
    |(?P<keyword>:[^\s,;"\[\](){}]+)
    |(?P<float>[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?M?(?=[\s,;"\[\](){}]|$))
    |(?P<ratio>[+-]?\d+/\d+(?=[\s,;"\[\](){}]|$))
    |(?P<char>\\(?:newline|return|space|tab|formfeed|backspace|u[0-9a-fA-F]{4}|o[0-3]?[0-7]{1,2}|.))
    |(?P<discard>\#_)
    |(?P<special>\#\#-?(?:Inf|NaN)(?=[\s,;"\[\](){}]|$))
    |(?P<tag>\#(?:[A-Za-z]|::?[A-Za-z])[^\s,;"\[\](){}]*)
    |(?P<symbol>[^\s,;"\[\](){}\d#:\\][^\s,;"\[\](){}]*)
    |(?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/"}
_CHARS: Final = {
    "newline": "\n", "return": "\r", "space": " ", "tab": "\t", "formfeed": "\f", "backspace": "\b"
}  # fmt: skip
_CLOSER: Final = {"[": "]", "(": ")", "{": "}", "#{": "}"}
_WORDS: Final[dict[str, object]] = {"nil": None, "true": True, "false": False}
_DEPTH_MAX: Final = 200

_Frame = tuple[str, list[object], int]


def where(text: str, offset: int) -> str:
    """``line L, column C`` of an offset, both counted from 1."""
    line = text.count("\n", 0, offset) + 1
    return f"line {line}, column {offset - (text.rfind(chr(10), 0, offset) + 1) + 1}"


def read_all(text: str) -> Iterator[tuple[object, int]]:
    """Yield every top-level value with the offset at which it starts.

    Raises:
        DecodeError: names line, column and what was expected.
    """
    match = _TOKEN.match
    stack: list[_Frame] = []
    items: list[object] = []
    opener, started = "", 0
    # A discard or a tag applies to the next value of the same collection: (depth, is_discard).
    prefixes: list[tuple[int, bool]] = []
    offset, size = 0, len(text)
    while True:
        token = match(text, offset)
        if token is None:
            raise _unexpected(text, offset)
        kind = token.lastgroup
        at, offset = token.start(kind or 0), token.end()
        word = text[at:offset]
        value: object
        if kind == "keyword":
            value = Keyword(word[1:])
        elif kind == "int":
            bare = word.rstrip("N")
            value = int(bare, 16) if "x" in bare or "X" in bare else int(bare)
        elif kind == "open":
            if len(stack) >= _DEPTH_MAX:
                raise DecodeError(f"{where(text, at)}: nested deeper than {_DEPTH_MAX}; expected a flatter value")
            stack.append((opener, items, started))
            opener, items, started = word, [], at
            continue
        elif kind == "close":
            if not stack or _CLOSER[opener] != word:
                wanted = f"{_CLOSER[opener]!r}" if stack else "a value"
                raise DecodeError(f"{where(text, at)}: found {word!r}, expected {wanted}")
            if prefixes and prefixes[-1][0] == len(stack):
                raise DecodeError(f"{where(text, at)}: found {word!r}, expected a value after a tag or #_")
            value = _collect(text, opener, items, at)
            at = started
            opener, items, started = stack.pop()
        elif kind == "symbol":
            value = _WORDS.get(word, word)
        elif kind == "string":
            value = word[1:-1] if "\\" not in word else _ESCAPE.sub(_unescape(text, at), word[1:-1])
        elif kind == "regex":
            value = word[2:-1]  # backslashes are the expression's own
        elif kind == "float":
            value = float(word.rstrip("M"))
        elif kind == "special":
            value = word[2:] if word == "##NaN" else float(word[2:].lower())
        elif kind == "ratio":
            over, under = word.split("/")
            if int(under) == 0:
                raise DecodeError(f"{where(text, at)}: found {word!r}, expected a ratio with a divisor above 0")
            whole, rest = divmod(int(over), int(under))
            value = int(over) / int(under) if rest else whole
        elif kind == "char":
            name = word[1:]
            value = _CHARS.get(name) or _character(name)
        elif kind == "discard" or kind == "tag":
            prefixes.append((len(stack), kind == "discard"))
            continue
        else:
            if stack:
                raise DecodeError(
                    f"{where(text, size)}: the text ends inside the {opener!r} of {where(text, started)}, "
                    f"expected {_CLOSER[opener]!r}"
                )
            if prefixes:
                raise DecodeError(f"{where(text, size)}: the text ends after a tag or #_, expected a value")
            return
        discarded = False
        while prefixes and prefixes[-1][0] == len(stack):
            if prefixes.pop()[1]:
                discarded = True
                break
        if discarded:
            continue
        if stack:
            items.append(value)
        else:
            yield value, at


def _character(name: str) -> str:
    """One character, told by itself, by ``uXXXX`` or by ``oNNN``."""
    if len(name) == 1:
        return name
    return chr(int(name[1:], 16 if name[0] == "u" else 8))


def _collect(text: str, opener: str, items: list[object], at: int) -> object:
    if opener == "{":
        if len(items) % 2:
            raise DecodeError(
                f"{where(text, at)}: a map with a key but no value, expected an even number of forms"
            )
        keys = [freeze(key) for key in items[::2]]
        return dict(zip(keys, items[1::2], strict=True))
    if opener == "#{":
        return frozenset(freeze(item) for item in items)
    return tuple(items)


def _unescape(text: str, at: int) -> "_Unescape":
    return _Unescape(text, at)


class _Unescape:
    """Replaces one escape; knows its string's place for the error."""

    def __init__(self, text: str, at: int) -> None:
        self._text, self._at = text, at

    def __call__(self, found: re.Match[str]) -> str:
        name = found[1]
        if len(name) == 5:
            return chr(int(name[1:], 16))
        if name not in _ESCAPES:
            spot = where(self._text, self._at + 1 + found.start())
            raise DecodeError(
                f'{spot}: unknown escape \\{name}, expected one of \\n \\t \\r \\b \\f \\" \\\\ \\uXXXX'
            )
        return _ESCAPES[name]


def _unexpected(text: str, offset: int) -> DecodeError:
    blank = re.compile(r"(?:[\s,]+|;[^\n]*)*").match(text, offset)
    at = offset if blank is None else blank.end()
    found = text[at : at + 12].split("\n")[0]
    wanted = "a closing quote" if found.startswith('"') else "a value"
    return DecodeError(f"{where(text, at)}: found {found!r}, expected {wanted}")


def freeze(value: object) -> object:
    """The same value in a form that can be hashed: maps become `Record`, lists become tuples, all the way down."""
    if isinstance(value, dict):
        return Record((freeze(key), freeze(item)) for key, item in value.items())
    if isinstance(value, tuple | list):
        return tuple(freeze(item) for item in value)
    return value


def dump(value: object) -> str:
    """EDN text of a frozen value.

    Raises:
        UsageError: it is of a type that EDN does not have, such as bytes.
    """
    if value is None:
        return "nil"
    if value is True or value is False:
        return "true" if value else "false"
    if isinstance(value, Keyword):
        return ":" + value
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    if isinstance(value, Record):
        return "{" + ", ".join(f"{dump(key)} {dump(item)}" for key, item in sorted(value, key=repr)) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{dump(key)} {dump(item)}" for key, item in value.items()) + "}"
    if isinstance(value, frozenset):
        return "#{" + " ".join(sorted(dump(item) for item in value)) + "}"
    if isinstance(value, tuple | list):
        return "[" + " ".join(dump(item) for item in value) + "]"
    if isinstance(value, float) and not isfinite(value):
        return "##NaN" if value != value else "##Inf" if value > 0 else "##-Inf"
    if isinstance(value, int | float):
        return repr(value)
    raise UsageError(f"EDN has no form for {value!r}"[:120])
