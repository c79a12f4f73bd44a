"""Torture: a real system, real clients, real faults, and a check of everything that the clients were told.

======================  ==============================================================================================
system.py               the seam: what a system under test can be asked to do and to suffer
cluster.py              troth itself behind that seam: server processes, killed, stopped, cut off, out of disk
registers.py            leaderless registers behind the same seam
proxy.py                the network between servers, which can be cut
namespaces.py           the same by the kernel: a network namespace for each server (needs root)
nemesis.py              faults, and the schedule that a seed stands for
record.py               the history that the clients leave
workload.py             the seam: what clients do, and what must be true of it afterwards
histories.py            workloads whose history a checker judges
ledgers.py              workloads that keep a ledger to compare with
workloads.py            all of them, by name
run.py                  one run from beginning to end, and its verdict
background.py           an event loop in a thread, for what goes on meanwhile
databases.py            real database servers in temporary directories, for tests and examples
======================  ==============================================================================================

The order of a run: start; workloads and nemesis together; heal; wait until the system is quiet; read everything once
more; check.
"""

from troth.torture.nemesis import NEMESES, Fault, schedule
from troth.torture.run import Outcome, Plan, torture
from troth.torture.system import Definite, Indefinite, SystemUnderTest, TortureClient
from troth.torture.workload import Finding, Workload
from troth.torture.workloads import WORKLOADS

__all__ = [
    "NEMESES",
    "WORKLOADS",
    "Definite",
    "Fault",
    "Finding",
    "Indefinite",
    "Outcome",
    "Plan",
    "SystemUnderTest",
    "TortureClient",
    "Workload",
    "schedule",
    "torture",
]
