"""A deletion of many keys, made ready in steps while nothing that can be seen changes, and then done at once.

To delete a million keys takes longer than a follower waits for a heartbeat. What takes the time is to look each key
up and to build its tombstone; putting all of them in place is a few bulk operations, several times faster. So the
first part can be done in slices with turns of the server in between (heartbeats, reads of the state as it was), before
the entry of the log that holds the deletion is applied (preparing.py); the second is the application.
"""

from collections.abc import Sequence

from troth.kv.requests import KeyValue

Index = dict[bytes, KeyValue | list[KeyValue]]
"""Key -> its only version, or its versions (see keyspace.py)."""


class Deletion:
    """Tombstones at `revision` for the live versions `live`, ready to be put in place."""

    __slots__ = ("keys_bytes", "leased", "listed", "live", "pairs", "revision", "tombstones", "values_bytes")

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.live: list[KeyValue] = []
        self.tombstones: list[KeyValue] = []
        self.pairs: Index = {}
        """What the index will hold for keys that have one version now."""
        self.listed: list[KeyValue] = []
        """Tombstones of the others."""
        self.leased: dict[int, list[bytes]] = {}
        """Which of the keys hang on which lease."""
        self.keys_bytes = 0
        self.values_bytes = 0

    def add(self, index: Index, live: Sequence[KeyValue]) -> None:
        """Make ready for the keys of *live* too."""
        revision, pairs = self.revision, self.pairs
        tombstones = [KeyValue(version.key, 0, revision, 0, b"", 0) for version in live]
        for version, tombstone in zip(live, tombstones, strict=True):
            if index[version.key] is version:
                pairs[version.key] = [version, tombstone]
            else:
                self.listed.append(tombstone)
        for version in live:
            if version.lease:
                self.leased.setdefault(version.lease, []).append(version.key)
        self.live += live
        self.tombstones += tombstones
        self.keys_bytes += sum([len(version.key) for version in live])
        self.values_bytes += sum([len(version.value) for version in live])
