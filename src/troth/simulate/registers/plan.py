"""What a seed of the registers' simulation stands for (swarm testing: every seed leaves many faults out)."""

from dataclasses import dataclass

from troth.simulate.rng import stream


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Probabilities are per mille. Times are microseconds; a round trip takes about `2 * delay_us + disk_us`."""

    seed: int
    acceptors: int
    spares: int
    prepare: int
    accept: int
    clients: int
    processes: int
    """How many requests each client has under way at once."""
    keys: int
    chaos_us: int
    patience_us: int
    """What a request may take."""
    silence_us: int
    """After so long an acceptor that has not answered counts as lost."""
    think_us: int

    delay_us: int
    delay_long: int
    loss: int
    duplicate: int
    told: int
    """Of lost messages: the sender is told at once (the connection broke)."""
    disk_us: int
    real_storage: bool
    """Acceptors write the files of real ones, to a disk that loses, tears and reorders what was not synced."""
    keep_unsynced: int

    partition_us: int
    """Mean time between partitions; 0: none. So with the others."""
    crash_us: int
    crash_all: int
    compact_us: int
    client_crash_us: int
    change_us: int
    """Mean time between changes of the set of acceptors."""
    wipe: bool
    deletes: bool

    def describe(self) -> str:
        """One line for the report of a red seed."""
        return ", ".join(f"{name} {getattr(self, name)}" for name in self.__slots__)


def draw(seed: int, *, chaos_ms: int) -> Plan:
    """The plan of *seed*."""
    rng = stream(seed, "registers", "plan")

    def maybe(chance: float, lo: int, hi: int) -> int:
        return rng.randint(lo, hi) if rng.random() < chance else 0

    acceptors = rng.choice((1, 2, 3, 3, 3, 3, 4, 5, 5))
    flexible = rng.random() < 0.3
    prepare = rng.randint(1, acceptors) if flexible else acceptors // 2 + 1
    accept = rng.randint(acceptors + 1 - prepare, acceptors) if flexible else acceptors // 2 + 1
    delay_us = rng.choice((100, 500, 2_000))
    changes = rng.random() < 0.4
    return Plan(
        seed=seed,
        acceptors=acceptors,
        spares=rng.randint(1, 3) if changes else 0,
        prepare=prepare,
        accept=accept,
        clients=rng.randint(1, 4),
        processes=rng.randint(1, 3),
        keys=rng.choice((1, 1, 2, 4)),
        chaos_us=chaos_ms * 1000,
        patience_us=rng.choice((20, 60, 200)) * delay_us,
        silence_us=rng.choice((8, 20, 60)) * delay_us,
        think_us=rng.choice((0, 2, 10)) * delay_us,
        delay_us=delay_us,
        delay_long=maybe(0.5, 2, 80),
        loss=maybe(0.6, 5, 200),
        duplicate=maybe(0.5, 5, 200),
        told=rng.choice((0, 300, 1000)),
        disk_us=rng.choice((0, delay_us // 4, 2 * delay_us)),
        keep_unsynced=rng.choice((0, 0, 500, 900)),
        partition_us=maybe(0.4, 20, 200) * delay_us,
        crash_us=maybe(0.6, 20, 300) * delay_us,
        crash_all=rng.choice((0, 0, 100, 400)),
        compact_us=maybe(0.5, 20, 200) * delay_us,
        client_crash_us=maybe(0.4, 50, 300) * delay_us,
        change_us=(rng.randint(50, 300) * delay_us) if changes else 0,
        wipe=changes and not flexible and acceptors >= 3 and rng.random() < 0.5,
        deletes=rng.random() < 0.6,
        real_storage=rng.random() < 0.2,
    )
