"""Which cluster a command talks to, and how it is opened.

In this order: ``--url``, the environment's ``TROTH_URL``, the context file that `troth up` leaves while it runs.
"""

import functools
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from troth.cli.numbers import POSITIVE
from troth.errors import UsageError

if TYPE_CHECKING:  # the client brings asyncio along, which `--help` does without
    from troth.client.aio import AsyncClient
    from troth.client.sync import Client

GIVEN_URL = "troth.url"
"""Where a command leaves the ``--url`` that it was given, for the advice on an error."""

F = TypeVar("F", bound=Callable[..., Any])


def context_path() -> Path:
    """The context file: ``TROTH_CONTEXT``, else ``troth/context.json`` in the user's state directory.

    Raises RuntimeError for a user without a home.
    """
    given = os.environ.get("TROTH_CONTEXT")
    if given:
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "troth" / "context.json"


def write_context(url: str, data: Path) -> None:
    """Let later commands of this user find the cluster at *url* without being told, before those that run already."""
    _replace_context([{"url": url, "data": str(data), "pid": os.getpid()}, *_contexts(but=url)])


def forget_context(url: str) -> None:
    """Take *url* out of the context file; commands find the last one of the others, if any still runs."""
    with suppress(OSError, RuntimeError):  # a line that stays is of a process that has ended, which readers see
        _replace_context(_contexts(but=url))


def read_context() -> str | None:
    """The URL of the last `troth up` that still runs; None without one, or with a context file that is damaged."""
    contexts = _contexts()
    return str(contexts[0]["url"]) if contexts else None


def _contexts(*, but: str = "") -> list[dict[str, Any]]:
    """What the context file says of every `troth up` that runs, the newest first."""
    try:
        said = json.loads(context_path().read_text())
        return [each for each in said if str(each["url"]) != but and _runs(int(each["pid"]))]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # RuntimeError: this user has no home
        return []


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:  # gone, or its number is another user's by now
        return False
    return True


def _replace_context(contexts: list[dict[str, Any]]) -> None:
    path = context_path()
    if not contexts:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contexts) + "\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What the options shared by all commands say."""

    given_url: str | None
    timeout_s: float
    json: bool

    @property
    def url(self) -> str:
        """Raises UsageError when nothing names a cluster."""
        url = self.given_url or read_context()
        if url is None:
            raise UsageError(
                "no cluster is named: start one here with `troth up`, or give --url troth://host:port"
            )
        return url

    def connect(self) -> "Client":
        """Open the sync client; a context manager."""
        import troth

        return troth.connect(self.url, timeout=self.timeout_s)

    async def connect_aio(self) -> "AsyncClient":
        """Open the asyncio client; an async context manager."""
        from troth import aio

        return await aio.connect(self.url, timeout=self.timeout_s)


def cluster_options(command: F) -> F:
    """Give *command* ``--url``, ``--timeout`` and ``-o``, and hand them over as the argument `cluster`."""

    @click.option("--url", envvar="TROTH_URL", help="The cluster: troth://host:port,host:port  [env: TROTH_URL]")
    @click.option(
        "--timeout",
        type=POSITIVE,
        default=5.0,
        show_default=True,
        help="Seconds to wait for an answer.",
    )
    @click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print the answer."
    )
    @functools.wraps(command)
    def with_cluster(*args: Any, url: str | None, timeout: float, output: str, **kwargs: Any) -> Any:
        context = click.get_current_context()
        if url is not None and context.get_parameter_source("url") is ParameterSource.COMMANDLINE:
            context.meta[GIVEN_URL] = url
        return command(*args, cluster=Cluster(given_url=url, timeout_s=timeout, json=output == "json"), **kwargs)

    return with_cluster  # type: ignore[return-value]
