"""Executable specifications of Raft and of Multi-Paxos.

======================  ==============================================================================================
state.py                the state: servers, what was said, who led with which log, what is committed
actions.py              what may happen: one guarded, pure function for each action of the paper
properties.py           what must hold: figure 3 of the paper, and that committed entries stay
explore.py              visits every state within bounds (`explore`)
trace.py                what a real node is seen to do, one JSON line a step
conformance.py          whether the specification allows what a real cluster was seen to do (`check_trace`)
multipaxos*.py          the same of Multi-Paxos: state, actions and rules; `explore_multipaxos`; `check_paxos_trace`
sequence.py             what both refine: one append-only sequence of chosen commands
======================  ==============================================================================================

They know nothing of troth's own engines, so that the two can be compared.
"""

from troth.verify.specification.conformance import Conformance, Refusal, TraceChecker, check_trace
from troth.verify.specification.explore import Bounds, Exploration, Found, explore
from troth.verify.specification.state import State, initial_state
from troth.verify.specification.trace import Change, Step, decode_trace, encode_step

__all__ = [
    "Bounds",
    "Change",
    "Conformance",
    "Exploration",
    "Found",
    "Refusal",
    "State",
    "Step",
    "TraceChecker",
    "check_trace",
    "decode_trace",
    "encode_step",
    "explore",
    "initial_state",
]
