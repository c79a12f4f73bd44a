"""What must hold after every step of a run of whole servers; one rule, one file. Those about the log alone are the
ones of troth/simulate/invariants."""

from troth.rehearsal.invariants.exactly_once import ExactlyOnce
from troth.rehearsal.invariants.revision_order import RevisionOrder
from troth.rehearsal.invariants.same_state import SameState
from troth.simulate.invariants import RULES as CORE_RULES
from troth.simulate.invariants.read_linearizability import ReadLinearizability

RULES = {
    consensus: (
        *(rule for rule in rules if rule is not ReadLinearizability),
        ExactlyOnce,
        RevisionOrder,
        SameState,
    )
    for consensus, rules in CORE_RULES.items()
}
"""By the name of the engine: what a cluster of cores is held to, and what only whole servers can break. That reads are
linearizable is judged from what clients saw."""
