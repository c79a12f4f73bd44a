"""Linearizability: every operation takes effect at one instant between its invocation and its return.

`check_linearizable` splits a history into independent parts and picks the cheapest sound algorithm for each:

===========  =================================================  ==========================================
algorithm    for                                                cost
===========  =================================================  ==========================================
chains       registers and keys, texts distinct or told apart   O(n log n)
set-chain    sets that only grow, read as a whole              O(n + elements read)
queue-order  queues; elements that repeat are told apart first  O(n log n); paired, exponential in overlap
jit          registers and keys with cas, append, repeats      O(n) times configurations, worst exponential
jit-model    any other object, through its `step`              the same, with a larger constant
===========  =================================================  ==========================================

Every verdict says which one decided. Reading order: register.py (the theory), witness.py, chains.py, sets.py,
queues.py, generic.py, foresight.py, objects.py, dispatch.py, minimal.py.
"""

from troth.verify.linearizability.dispatch import check_linearizable
from troth.verify.linearizability.outcome import Budget

__all__ = ["Budget", "check_linearizable"]
