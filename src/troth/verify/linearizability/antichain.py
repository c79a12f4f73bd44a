"""Keeping only configurations of which none is better than another: reduction 5 of `register.py`.

For the same state, (used, free) is no better than (used', free') if used' is within used and free within free'.
"""

from troth.verify.history import Value
from troth.verify.linearizability.outcome import Configuration, Trail


def enqueue(
    queue: list[tuple[Value, int, int, Trail, bool]],
    visited: dict[Value, list[tuple[int, int, bool]]],
    state: Value,
    used: int,
    free: int,
    trail: Trail,
    seen: bool,
) -> None:
    """Add a configuration to go on from, unless one at least as good is there already."""
    known = visited.get(state)
    if known is None:
        visited[state] = [(used, free, seen)]
    else:
        for known_used, known_free, known_seen in known:
            if not known_used & ~used and not free & ~known_free and known_seen >= seen:
                return
        known.append((used, free, seen))
    queue.append((state, used, free, trail, seen))


def insert(group: list[Configuration], config: Configuration) -> None:
    """Add to an antichain: configurations of one state, none better than another."""
    used, free = config[1], config[2]
    for other in group:
        if not other[1] & ~used and not free & ~other[2]:
            return
    group[:] = [other for other in group if used & ~other[1] or other[2] & ~free]
    group.append(config)
