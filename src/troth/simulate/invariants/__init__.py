"""What must hold after every step of a run; one rule, one file."""

from troth.simulate.invariants.acknowledgements import Acknowledgements
from troth.simulate.invariants.agreement import Agreement
from troth.simulate.invariants.append_answers import AppendAnswers
from troth.simulate.invariants.ballot_contact import BallotContact
from troth.simulate.invariants.commit_rule import CommitRule
from troth.simulate.invariants.committed_is_durable import CommittedIsDurable
from troth.simulate.invariants.configuration_safety import ConfigurationSafety
from troth.simulate.invariants.durable_before_visible import DurableBeforeVisible
from troth.simulate.invariants.durable_promises import DurablePromises
from troth.simulate.invariants.elected_by_quorum import ElectedByQuorum
from troth.simulate.invariants.election_safety import ElectionSafety
from troth.simulate.invariants.flow_control import FlowControl
from troth.simulate.invariants.index_order import IndexOrder
from troth.simulate.invariants.known_to_new_voters import KnownToNewVoters
from troth.simulate.invariants.leader_append_only import LeaderAppendOnly
from troth.simulate.invariants.leader_completeness import LeaderCompleteness
from troth.simulate.invariants.leader_fitness import LeaderFitness
from troth.simulate.invariants.lease_safety import LeaseSafety
from troth.simulate.invariants.log_matching import LogMatching
from troth.simulate.invariants.lost_logs import LostLogs
from troth.simulate.invariants.membership_rules import MembershipFromLog, OneChangeAtATime
from troth.simulate.invariants.never_falls import NeverFalls
from troth.simulate.invariants.older_terms import OlderTermsAreTold
from troth.simulate.invariants.promised_by_quorum import PromisedByQuorum
from troth.simulate.invariants.promises import Promises
from troth.simulate.invariants.read_linearizability import ReadLinearizability
from troth.simulate.invariants.read_rules import ReadRules
from troth.simulate.invariants.recovery import HighestReported, Recovery
from troth.simulate.invariants.start_terms import StartTerms
from troth.simulate.invariants.state_machine_safety import StateMachineSafety
from troth.simulate.invariants.transfer_rules import TransferRules
from troth.simulate.invariants.votes import ElectionRestriction, LeaderContact

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
"""What a cluster of Raft servers promises."""

LOCAL = (
    AppendAnswers,
    CommitRule,
    ElectedByQuorum,
    ElectionRestriction,
    LeaderContact,
    MembershipFromLog,
    FlowControl,
)
"""Rules of the Raft paper that each server keeps by itself. A server that breaks one has a bug, though it may take a
thousand unlucky runs until the cluster as a whole breaks a promise."""

LEADING = (LeaderFitness, LostLogs, OlderTermsAreTold, OneChangeAtATime, ReadRules, StartTerms, TransferRules)
"""The same for whatever has one leader at a time."""

PAXOS = (
    Agreement,
    BallotContact,
    Recovery,
    HighestReported,
    PromisedByQuorum,
    KnownToNewVoters,
    Promises,
    DurablePromises,
    StateMachineSafety,
    CommittedIsDurable,
    IndexOrder,
    ReadLinearizability,
    LeaseSafety,
)

RULES = {"raft": ALL + LOCAL + LEADING, "paxos": PAXOS + LEADING}
"""By the name of the engine."""
