"""txn: comparisons and operations as people write them, parsed here, run by the cluster at one revision."""

import re
import shlex
import sys
from collections.abc import Callable, Iterable

import click

from troth.cli import output
from troth.cli.cluster import Cluster, cluster_options
from troth.cli.exit_codes import EXIT_INTERRUPTED
from troth.cli.keys import from_key
from troth.client.operations import Delete, Get, Put, Text, as_bytes
from troth.client.replies import DeleteReply, OperationReply, PutReply, RangeReply, TxnReply
from troth.errors import UsageError
from troth.kv.requests import Compare, CompareResult, CompareTarget, Operation

_RESULTS = {
    "=": CompareResult.EQUAL,
    "==": CompareResult.EQUAL,
    "!=": CompareResult.NOT_EQUAL,
    ">": CompareResult.GREATER,
    "<": CompareResult.LESS,
}
_TARGETS = {
    "value": CompareTarget.VALUE,
    "version": CompareTarget.VERSION,
    "create": CompareTarget.CREATE,
    "mod": CompareTarget.MOD,
    "lease": CompareTarget.LEASE,
}
_COMPARISON = re.compile(r"\s*(\w+)\s*\(\s*(\S.*?)\s*\)\s*(==|!=|=|[<>](?!=))\s*(\S.*?|)\s*", re.DOTALL)

_PROMPT = """\
Comparisons, one a line; an empty line; operations if they hold; an empty line; operations if not; Ctrl-D."""


def parse_comparison(text: str) -> Compare:
    """Read ``value(KEY) = TEXT``, ``version(KEY) > 0``, ``create``, ``mod`` or ``lease`` likewise.

    Raises:
        UsageError: not a comparison; the text says what is expected.
    """
    match = _COMPARISON.fullmatch(text)
    target = _TARGETS.get(match[1]) if match else None
    if match is None or target is None:
        raise UsageError(
            f"{text!r} is not a comparison; write for example value(a) = 1, version(a) > 0, mod(a) != 41"
            " (there are =, !=, < and >)"
        )
    if not match[4]:
        raise UsageError(f"{text!r}: nothing stands behind {match[3]}; write '' for an empty value")
    key, operand = as_bytes(_unquoted(match[2])), _unquoted(match[4])
    result = _RESULTS[match[3]]
    if target is CompareTarget.VALUE:
        return Compare(key, target, result, value=as_bytes(operand))
    try:
        number = int(operand, 16 if target is CompareTarget.LEASE else 10)
    except ValueError:
        raise UsageError(f"{text!r}: {operand!r} is not a number") from None
    return Compare(key, target, result, number=number)


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def _put(words: list[str], _: list[str]) -> Operation:
    key, value = words
    return Put(key, value)


def _get(words: list[str], flags: list[str]) -> Operation:
    key, end, prefix = _span(words, flags)
    return Get(key, end, prefix=prefix)


def _delete(words: list[str], flags: list[str]) -> Operation:
    key, end, prefix = _span(words, flags)
    return Delete(key, end, prefix=prefix)


def _span(words: list[str], flags: list[str]) -> tuple[Text, Text | None, str | None]:
    if not flags:
        key, *ends = words
        if len(ends) > 1:
            raise ValueError("too many words")
        return key, ends[0] if ends else None, None
    (flag,), (start,) = flags, words
    return ("", None, start) if flag == "--prefix" else (*from_key(start), None)


_OPERATIONS: dict[str, tuple[Callable[[list[str], list[str]], Operation], tuple[str, ...]]] = {
    "put": (_put, ()),
    "get": (_get, ("--prefix", "--from-key")),
    "del": (_delete, ("--prefix", "--from-key")),
}
"""Each with its flags."""


def parse_operation(text: str) -> Operation:
    """Read ``put KEY VALUE``, ``get KEY [END]``, ``del KEY [END]``; get and del also take ``--prefix`` and
    ``--from-key``, before KEY or behind it. What begins with ``--`` and is no flag stands behind a ``--``.

    Raises:
        UsageError: not an operation.
    """
    try:
        verb, *words = shlex.split(text)
        operation, known = _OPERATIONS[verb]
        at = words.index("--") if "--" in words else len(words)
        flags = [word for word in words[:at] if word.startswith("--")]
        if strange := [flag for flag in flags if flag not in known]:
            # Taken for the end of a span, it would mean other keys.
            there_are = f" (there are {' and '.join(known)})" if known else ""
            raise UsageError(
                f"{text!r}: {verb} has no flag {strange[0]!r} here{there_are};"
                " a key or value that begins with '--' stands behind '--'"
            )
        return operation([word for word in words[:at] if word not in flags] + words[at + 1 :], flags)
    except (ValueError, KeyError):
        raise UsageError(
            f"{text!r} is not an operation; write put KEY VALUE, get KEY [END] or del KEY [END]"
            " (or get or del with --prefix or --from-key, and one KEY)"
        ) from None


def parse_script(lines: Iterable[str]) -> tuple[list[Compare], list[Operation], list[Operation]]:
    """Read etcdctl's form: comparisons, an empty line, operations if they hold, an empty line, operations if not.

    Raises:
        UsageError: a line that is none of these.
    """
    parts: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            parts[-1].append(line.strip())
        elif len(parts) < 3:
            parts.append([])
    while len(parts) < 3:
        parts.append([])
    comparisons, then, otherwise = parts
    return (
        [parse_comparison(line) for line in comparisons],
        [parse_operation(line) for line in then],
        [parse_operation(line) for line in otherwise],
    )


@click.command()
@click.option(
    "--if", "comparisons", multiple=True, metavar="COMPARISON", help="May be given several times; all must hold."
)
@click.option(
    "--then", "then", multiple=True, metavar="OPERATION", help="Done in order when all comparisons hold."
)
@click.option("--else", "otherwise", multiple=True, metavar="OPERATION", help="Done in order otherwise.")
@cluster_options
def txn(comparisons: tuple[str, ...], then: tuple[str, ...], otherwise: tuple[str, ...], cluster: Cluster) -> None:
    """If all comparisons hold do one list of operations, else the other.

    All of it happens at one revision. Comparisons are value(KEY), version(KEY), create(KEY), mod(KEY), lease(KEY)
    against =, !=, < or >. Operations are put KEY VALUE, get KEY [END], del KEY [END]; get and del take --prefix (all
    keys that start with KEY) and --from-key (KEY and all behind it). Without options the three parts are read from
    standard input, an empty line between them.

    \b
    Examples:
      troth txn --if 'version(lock) = 0' --then 'put lock me' --else 'get lock'
      troth txn --if 'value(a) = 10' --then 'put a 5' --then 'put b 5'
    """
    if comparisons or then or otherwise:
        compare = [parse_comparison(text) for text in comparisons]
        success = [parse_operation(text) for text in then]
        failure = [parse_operation(text) for text in otherwise]
    else:
        if sys.stdin.isatty():
            click.echo(_PROMPT, err=True)
        try:
            compare, success, failure = parse_script(sys.stdin)
        except KeyboardInterrupt:
            click.echo("Interrupted. Nothing was sent.", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None
    with cluster.connect() as client:
        reply = client.txn(compare=compare, success=success, failure=failure)
    if cluster.json:
        output.print_json({**_answer(reply), **output.facts(reply)})
        return
    click.echo("succeeded" if reply.succeeded else "failed: the comparisons did not hold")
    for response in reply.responses:
        for line in _lines(response):
            click.echo(f"  {line}")
    output.print_trailer(reply)


def _answer(reply: OperationReply) -> dict[str, object]:
    match reply:
        case PutReply():
            return {"put": True}
        case RangeReply():
            return {"kvs": [output.kv_fields(kv) for kv in reply.kvs], "count": reply.count}
        case DeleteReply():
            return {"deleted": reply.deleted}
        case TxnReply():
            return {"succeeded": reply.succeeded, "responses": [_answer(response) for response in reply.responses]}


def _lines(reply: OperationReply) -> list[str]:
    match reply:
        case PutReply():
            return ["put"]
        case RangeReply():
            found = [f"{output.shown(kv.key)} = {output.shown(kv.value)}" for kv in reply.kvs]
            return found or ["no such key"]
        case DeleteReply():
            return [f"deleted {reply.deleted}"]
        case TxnReply():
            inner = [line for response in reply.responses for line in _lines(response)]
            return ["succeeded" if reply.succeeded else "failed", *(f"  {line}" for line in inner)]
