"""Chance in a simulated world: one seed, and one stream of it for each purpose.

Streams are independent, so that drawing more in one place (another fault, another request) does not change what is
drawn elsewhere: a run that is cut down to fewer faults stays the same run otherwise.
"""

import random


def stream(seed: int, *names: object) -> random.Random:
    """The stream of *seed* that belongs to *names*; the same in every process (no use of `hash`)."""
    return random.Random("/".join(str(name) for name in (seed, *names)))
