"""Clients of a troth cluster: one asyncio implementation (aio.py) and a thin synchronous facade (sync.py).

Reading order: url, operations, replies (what callers see); retry (the policy); link, request, router (servers and
what is under way to them); writes, reads (batches); cluster, aio (the client itself); then session, watch, lease,
sync, replicated, recording. DESIGN.md says why it is this way.
"""
