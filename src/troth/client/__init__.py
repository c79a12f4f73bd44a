"""Clients of a troth cluster: one asyncio implementation (aio.py) and a thin synchronous facade (sync.py).

Reading order: url, operations, replies (what callers see); retry (the policy); link, router (servers and what is
under way to them); writes, reads (batches); aio (the client itself); then session, watch, lease, cluster, sync,
replicated, recording.
"""
