"""Decision logs: what they promise (interface), the embedded file (framing, file), the replicated one (replicated), and
the queue that makes many decisions share one sync (group).
"""
