"""The code blocks of docs/simulation.md run as they stand there, and find what they are said to find."""

import re
from pathlib import Path
from typing import Any

import pytest

from troth.errors import invariant
from troth.rehearsal.plan import draw
from troth.rehearsal.run import Rehearsal

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[2] / "docs/simulation.md").read_text(), re.DOTALL
)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_block_runs(number: int) -> None:
    exec(compile(BLOCKS[number], f"block {number} of docs/simulation.md", "exec"), {"__name__": "block"})


def test_a_bug_in_code_that_stands_on_a_client_is_found() -> None:
    """A counter that reads and then writes, without comparing, loses increments."""
    done: dict[str, int] = {}

    async def increment(client: Any, rng: Any) -> None:
        seen = await client.get("counter")
        count = 0 if seen.kv is None else int(seen.kv.value)
        await client.put("counter", str(count + 1))
        done["increments"] = done.get("increments", 0) + 1
        invariant(count + 1 >= done["increments"], "an increment is lost", count=count + 1, **done)

    assert "an increment is lost" in Rehearsal(draw(1, chaos_seconds=3), workload=increment).run().violation
