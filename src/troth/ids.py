"""Names for the numbers that must not be mixed up.

A node id is drawn at random when a data directory is created and lives in that directory's identity file. It
is therefore never used twice: a server whose disk was wiped comes back as a stranger (see storage/identity.py).
"""

from typing import NewType

NodeId = NewType("NodeId", int)
"""A server with one particular data directory; 1 .. 2**63 - 1. Not an address."""

ClusterId = NewType("ClusterId", int)
"""All servers that share one log; 1 .. 2**63 - 1."""

Term = NewType("Term", int)
"""Raft term or Paxos ballot round; starts at 0, never falls."""

LogIndex = NewType("LogIndex", int)
"""Position in the replicated log; the first entry has index 1, 0 means "before the log"."""

Revision = NewType("Revision", int)
"""Version of the whole key space; 1 when empty, one more for each modifying request."""

LeaseId = NewType("LeaseId", int)
"""Name of a lease; 0 means "no lease"."""

SessionId = NewType("SessionId", int)
"""Name of an exactly-once client session; 0 means "none"."""

Tick = NewType("Tick", int)
"""Logical time handed to a core by its driver; the driver decides how long a tick lasts."""
