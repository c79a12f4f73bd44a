"""Which cluster a command talks to, and how it is opened.

In this order: ``--url``, the environment's ``TROTH_URL``, the context file that `troth up` leaves while it runs.
"""

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from troth.errors import UsageError

if TYPE_CHECKING:  # the client brings asyncio along, which `--help` does without
    from troth.client.aio import AsyncClient
    from troth.client.sync import Client

F = TypeVar("F", bound=Callable[..., Any])


def context_path() -> Path:
    """The context file: ``TROTH_CONTEXT``, else ``troth/context.json`` in the user's state directory."""
    given = os.environ.get("TROTH_CONTEXT")
    if given:
        return Path(given)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "troth" / "context.json"


def write_context(url: str, data: Path) -> None:
    """Let later commands of this user find the cluster at *url* without being told."""
    path = context_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"url": url, "data": str(data)}) + "\n")


def forget_context(url: str) -> None:
    """Remove the context file if it still names *url* (another `troth up` may have replaced it)."""
    if read_context() == url:
        context_path().unlink(missing_ok=True)


def read_context() -> str | None:
    """The URL in the context file; None without one, or with one that is damaged."""
    try:
        url = json.loads(context_path().read_text())["url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url if isinstance(url, str) else None


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
        type=click.FloatRange(min=0, min_open=True),
        default=5.0,
        show_default=True,
        help="Seconds to wait for an answer.",
    )
    @click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How to print the answer."
    )
    @functools.wraps(command)
    def with_cluster(*args: Any, url: str | None, timeout: float, output: str, **kwargs: Any) -> Any:
        return command(*args, cluster=Cluster(given_url=url, timeout_s=timeout, json=output == "json"), **kwargs)

    return with_cluster  # type: ignore[return-value]
