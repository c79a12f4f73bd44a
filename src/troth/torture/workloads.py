"""What clients do while a system is tortured, and what must be true of it afterwards.

========== ===================================================================================================
registers   put, get and compare-and-set of a few keys; the history is linearizable, key by key
inserts     keys that are written once; all acknowledged ones are there at the end, no refused one is
counters    writes of one key by one client, counted by the system; none was applied twice, none is missing
appends     transactions that read lists and append to one; the history is strictly serializable
transfers   money between accounts; no reader ever sees another sum
========== ===================================================================================================

Each ends with a read of all that it has touched, by a client that was not there, so that a lost write is seen even if
no client read it in the meantime.
"""

from typing import Final

from troth.torture.histories import Appends, Registers
from troth.torture.ledgers import Counters, Inserts, Transfers
from troth.torture.workload import Workload

WORKLOADS: Final[dict[str, type[Workload]]] = {
    workload.name: workload for workload in (Registers, Inserts, Counters, Appends, Transfers)
}
