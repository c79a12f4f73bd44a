"""What must hold after every step of a run; one rule, one file."""

from troth.simulate.invariants.acknowledgements import Acknowledgements
from troth.simulate.invariants.agreement import Agreement
from troth.simulate.invariants.committed_is_durable import CommittedIsDurable
from troth.simulate.invariants.configuration_safety import ConfigurationSafety
from troth.simulate.invariants.durable_before_visible import DurableBeforeVisible
from troth.simulate.invariants.durable_promises import DurablePromises
from troth.simulate.invariants.election_safety import ElectionSafety
from troth.simulate.invariants.index_order import IndexOrder
from troth.simulate.invariants.leader_append_only import LeaderAppendOnly
from troth.simulate.invariants.leader_completeness import LeaderCompleteness
from troth.simulate.invariants.lease_safety import LeaseSafety
from troth.simulate.invariants.log_matching import LogMatching
from troth.simulate.invariants.never_falls import NeverFalls
from troth.simulate.invariants.promises import Promises
from troth.simulate.invariants.read_linearizability import ReadLinearizability
from troth.simulate.invariants.recovery import Recovery
from troth.simulate.invariants.state_machine_safety import StateMachineSafety

ALL = (
    ElectionSafety,
    LeaderAppendOnly,
    LogMatching,
    LeaderCompleteness,
    StateMachineSafety,
    CommittedIsDurable,
    NeverFalls,
    IndexOrder,
    ConfigurationSafety,
    ReadLinearizability,
    LeaseSafety,
    DurableBeforeVisible,
    Acknowledgements,
)
"""Raft's."""

PAXOS = (
    Agreement,
    Recovery,
    Promises,
    DurablePromises,
    StateMachineSafety,
    CommittedIsDurable,
    IndexOrder,
    ReadLinearizability,
    LeaseSafety,
)

RULES = {"raft": ALL, "paxos": PAXOS}
"""By the name of the engine."""
