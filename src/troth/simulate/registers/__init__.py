"""Leaderless registers in a world of their own: the acceptor and proposer of core/register under every fault.

``troth simulate registers 7`` replays one run.
"""
