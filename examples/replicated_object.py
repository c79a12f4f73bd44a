"""Your own class, replicated: every holder applies the same calls in the same order."""

import troth


class Inventory(troth.Replicated):
    """How many of each thing there are. Commands change it, on every replica; everything else only reads."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    @troth.command
    def add(self, thing: str, count: int) -> int:
        self.counts[thing] = self.counts.get(thing, 0) + count
        return self.counts[thing]

    @troth.command
    def take(self, thing: str, count: int) -> bool:
        if self.counts.get(thing, 0) < count:
            return False
        self.counts[thing] -= count
        return True


with troth.LocalCluster(3) as cluster, cluster.connect() as here, cluster.connect() as there:
    # Two holders, as in two processes.
    mine = Inventory.on(here, "inventories/berlin")
    theirs = Inventory.on(there, "inventories/berlin")

    print("bolts after add:", mine.add("bolts", 10))
    print("the other one takes 7:", theirs.take("bolts", 7))
    print("and I take 7:", mine.take("bolts", 7))

    # A linearizable read sees every call that was finished before it, wherever it was made.
    assert theirs.read(lambda it: dict(it.counts)) == {"bolts": 3}
    # A read of the copy in this process costs nothing and may be a moment behind.
    print("here, as it stands:", mine.read(lambda it: it.counts["bolts"], level=troth.eventual))

    cluster.kill(cluster.leader())
    print("after the leader's death:", theirs.add("bolts", 1))
    assert mine.read(lambda it: it.counts["bolts"]) == 4
