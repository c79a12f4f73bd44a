"""Clients of leaderless registers: each is a proposer that talks straight to the acceptors (core/register)."""
