"""Atomic transactions over several databases, that finish whatever dies: `TwoPhaseCommit` over SQLAlchemy engines.

Reading order: steps; log/ (the decision log: interface, file, replicated, group commit); channels (one statement on
many connections from one thread); participants/ (what each kind of database calls prepare, and how it lies);
transaction (the owner), recovery (everybody else), coordinator (`TwoPhaseCommit`), aio (its twin), then barrier,
deadlocks, metrics. The rules are in core/twophase. SQLAlchemy is needed here and only here: the extra `sql`.
"""
