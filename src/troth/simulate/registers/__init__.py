"""Leaderless registers in a world of their own: the acceptor and proposer of core/register under every fault.

``python -m troth.simulate.registers --seed 7`` replays one run.
"""
