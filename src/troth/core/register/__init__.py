"""Registers without a leader: CASPaxos, one cell per key.

Reading order: `messages` (words), `codec` (bytes), `acceptor`; `states` and `changes` (what a change makes of a state);
`task` (what a driver drives), `attempts`, `round` and `proposer` (a change, until it is known what became of it);
`collection` (deletions), `listing`, `reconfigure` (other acceptors).
"""
