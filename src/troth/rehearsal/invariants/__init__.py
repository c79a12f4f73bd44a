"""What must hold after every step of a run of whole servers; one rule, one file. Those about the log alone are the
ones of troth/simulate/invariants."""

from troth.rehearsal.invariants.exactly_once import ExactlyOnce
from troth.rehearsal.invariants.revision_order import RevisionOrder
from troth.rehearsal.invariants.same_state import SameState
from troth.simulate.invariants import ALL as ENGINE_RULES
from troth.simulate.invariants.read_linearizability import ReadLinearizability

ALL = (*(rule for rule in ENGINE_RULES if rule is not ReadLinearizability), ExactlyOnce, RevisionOrder, SameState)
"""(That reads are linearizable is judged from what clients saw.)"""
