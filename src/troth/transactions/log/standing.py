"""What the decision logs that a cluster keeps have not finished: for `troth status`, which opens none of them."""

from typing import NamedTuple

from troth.client.replies import RangeReply
from troth.client.sync import Client
from troth.models import eventual

ROOT = "troth.2pc/log/"
"""The keys of each log: keys.py."""
LOGS_MAX = 100
WAIT_S = 1.0


class Standing(NamedTuple):
    """One log."""

    unnoted: int
    """Decisions that are not noted as applied. Coordinators note in batches, so that a busy one always has some."""
    heuristics: int
    """Branches that somebody finished against the decision, until `troth tx forget`."""


def standing(client: Client) -> dict[str, Standing]:
    """By the system's name; as any server has it, so also without a leader.

    Raises:
        RequestError: no server answers in time.
    """

    def look(first: str, end: str) -> RangeReply:
        return client.range(first, end, limit=1, keys_only=True, level=eventual, timeout=WAIT_S)

    found: dict[str, Standing] = {}
    first, end = ROOT, _after(ROOT)
    while len(found) < LOGS_MAX:
        kvs = look(first, end).kvs
        if not kvs:
            break
        name = kvs[0].key.decode().removeprefix(ROOT).partition("/")[0]
        log = f"{ROOT}{name}/"
        counts = [look(keys, _after(keys)).count for keys in (f"{log}pending/", f"{log}heuristic/")]
        found[name] = Standing(*counts)
        first = _after(log)
    return found


def _after(prefix: str) -> str:
    """The first key behind all that begin with *prefix*."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
