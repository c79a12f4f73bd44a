"""Oracles for the weak models: definitions written down literally, every order tried. For about eight operations."""

from itertools import permutations, product

from troth.verify.accesses import Access, Accesses
from troth.verify.history import Value


def causes(accesses: Accesses, *, through_reads: bool) -> set[tuple[tuple[int, int], tuple[int, int]]]:
    """Session order, and with *through_reads* reads-from, closed transitively; over (session, place)."""
    nodes = [(s, p) for s, session in enumerate(accesses.sessions) for p in range(len(session))]
    pairs = {(a, b) for a in nodes for b in nodes if a[0] == b[0] and a[1] < b[1]}
    if through_reads:
        where = {access.write: node for node, access in every(accesses) if access.is_write}
        pairs |= {
            (where[access.write], node)
            for node, access in every(accesses)
            if not access.is_write and access.write >= 0
        }
    for middle, left, right in product(nodes, nodes, nodes):
        if (left, middle) in pairs and (middle, right) in pairs:
            pairs.add((left, right))
    # One round in this order of loops is Warshall's algorithm.
    return pairs


def every(accesses: Accesses) -> list[tuple[tuple[int, int], Access]]:
    """All accesses with their (session, place)."""
    return [((s, p), access) for s, session in enumerate(accesses.sessions) for p, access in enumerate(session)]


def views(accesses: Accesses, *, through_reads: bool) -> bool:
    """Whether every session has an order of all writes and its own reads that explains those reads."""
    if accesses.thin_air is not None:
        return False
    before = causes(accesses, through_reads=through_reads)
    for session in range(len(accesses.sessions)):
        mine = [(n, a) for n, a in every(accesses) if a.is_write or n[0] == session]
        if not _explains(mine, before):
            return False
    return True


def _explains(
    nodes: list[tuple[tuple[int, int], Access]], before: set[tuple[tuple[int, int], tuple[int, int]]]
) -> bool:
    stack: list[tuple[int, tuple[tuple[Value, int], ...]]] = [(0, ())]
    seen = set()
    while stack:
        done, state = stack.pop()
        if done == (1 << len(nodes)) - 1:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        for at, (node, access) in enumerate(nodes):
            if done >> at & 1:
                continue
            if any((other, node) in before and not done >> o & 1 for o, (other, _) in enumerate(nodes)):
                continue
            values = dict(state)
            if access.is_write:
                values[access.key] = access.write
            elif values.get(access.key, -1) != access.write:
                continue
            stack.append((done | 1 << at, tuple(sorted(values.items(), key=repr))))
    return False


def convergent(accesses: Accesses) -> bool:
    """causal+: one order of all writes such that every read returns the last one that is visible to it."""
    if accesses.thin_air is not None:
        return False
    before = causes(accesses, through_reads=True)
    if any((node, node) in before for node, _ in every(accesses)):
        return False
    writes = [(node, access) for node, access in every(accesses) if access.is_write]
    for order in permutations(writes):
        if any((b[0], a[0]) in before for at, a in enumerate(order) for b in order[at + 1 :]):
            continue
        if all(
            _last_visible(node, access, order, before) for node, access in every(accesses) if not access.is_write
        ):
            return True
    return False


def _last_visible(
    node: tuple[int, int],
    access: Access,
    order: tuple[tuple[tuple[int, int], Access], ...],
    before: set[tuple[tuple[int, int], tuple[int, int]]],
) -> bool:
    visible = [w.write for n, w in order if w.key == access.key and (n, node) in before]
    return (visible[-1] if visible else -1) == access.write


def own_guarantee(accesses: Accesses, session: int, guarantee: str) -> bool:
    """Read-your-writes or monotonic reads: some order of each key's writes, respecting the facts, explains it."""
    keys = {access.key for _, access in every(accesses)}
    return all(_key_ordered(accesses, session, guarantee, key) for key in keys)


def _key_ordered(accesses: Accesses, session: int, guarantee: str, key: Value) -> bool:
    writes = [access.write for _, access in every(accesses) if access.is_write and access.key == key]
    mine = [access for access in accesses.sessions[session] if access.key == key]
    facts = [
        (a.write, b.write)
        for other in accesses.sessions
        for at, a in enumerate(other)
        for b in other[at + 1 :]
        if a.is_write and b.is_write and a.key == b.key == key
    ]
    if guarantee == "read-your-writes":
        facts += [
            (a.write, b.write)
            for at, a in enumerate(mine)
            for b in mine[at + 1 :]
            if b.is_write and a.write >= 0 and a.write != b.write
        ]
    for order in permutations(writes):
        rank = {-1: -1} | {write: at for at, write in enumerate(order)}
        if any(rank[a] > rank[b] for a, b in facts):
            continue
        floor, fine = -1, True
        for access in mine:
            if guarantee == "read-your-writes":
                if access.is_write:
                    floor = max(floor, rank[access.write])
                else:
                    fine = fine and rank[access.write] >= floor
            elif not access.is_write:
                fine = fine and rank[access.write] >= floor
                floor = max(floor, rank[access.write])
        if fine:
            return True
    return False


def others_guarantee(accesses: Accesses, session: int, guarantee: str) -> bool:
    """Monotonic writes or writes follow reads: read by read, pair by pair."""
    where = {access.write: node for node, access in every(accesses) if access.is_write}
    reads = [access for access in accesses.sessions[session] if not access.is_write]

    def required(write: int, deep: set[int]) -> set[int]:
        owner, place = where[write]
        found: set[int] = set()
        for access in accesses.sessions[owner][:place]:
            if guarantee == "monotonic-writes" and access.is_write:
                found.add(access.write)
            if guarantee == "writes-follow-reads" and not access.is_write and access.write >= 0:
                found.add(access.write)
                if access.write not in deep:
                    found |= required(access.write, deep | {access.write})
        return found

    def closure(write: int) -> set[int]:
        return {write} | required(write, {write})

    for at, later in enumerate(reads):
        for earlier in reads[: at + 1]:
            if earlier.write < 0:
                continue
            need = required(earlier.write, {earlier.write})
            if guarantee == "monotonic-writes":
                need = need | {earlier.write}
            if earlier is later:
                need = need - {earlier.write}
            for write in need:
                owner, place = where[write]
                if accesses.sessions[owner][place].key != later.key:
                    continue
                if later.write < 0:
                    return False
                if where[later.write][0] == owner and where[later.write][1] < place and earlier is not later:
                    return False
            if guarantee == "writes-follow-reads" and earlier is not later and later.write >= 0:
                for write in closure(earlier.write):
                    owner, place = where[write]
                    home = accesses.sessions[owner]
                    if home[place].key == later.key and any(
                        not access.is_write and access.write == later.write for access in home[:place]
                    ):
                        return False
    return True
