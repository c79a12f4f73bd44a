"""Known bugs above and below the core, put back one at a time into servers, storage and clients: the simulation of
whole servers is to find each (table.py, `--subject servers`).
"""

from pitfalls import Pitfall


def bug(*, name: str, file: str, old: str, new: str) -> Pitfall:
    return Pitfall(name=name, found="", file=f"src/troth/{file}", old=old, new=new)


SERVER_PITFALLS = (
    bug(
        name="a retry is applied again: sessions remember no answers",
        file="replica/sessions.py",
        old="        self._sessions[session_id].results[first_seq] = results\n",
        new="",
    ),
    bug(
        name="a failed sync is taken for a good one",
        file="storage/log.py",
        old="        except OSError as error:\n            raise SyncFailed(",
        new="        except OSError as error:\n            return\n            raise SyncFailed(",
    ),
    bug(
        name="what must wait for the disk leaves when it is handed to it",
        file="runtime/node.py",
        old="while outbox and outbox[0][0] <= self._durable:",
        new="while outbox and outbox[0][0] <= self._submitted:",
    ),
    bug(
        name="a linearizable read is served from the state at hand",
        file="replica/reading.py",
        old="            case LevelName.LINEARIZABLE:\n                self._reads.wait_point(waiting)",
        new="            case LevelName.LINEARIZABLE:\n                serve(-1)",
    ),
    bug(
        name="a session read does not wait for what the session has seen",
        file="replica/reading.py",
        old="if self.machine.store.revision >= level.seen_revision:",
        new="if self.machine.store.revision >= 0:",
    ),
    bug(
        name="a snapshot leaves the sessions out",
        file="replica/machine.py",
        old="map(_encode, pages(sessions))",
        new="map(_encode, pages([]))",
    ),
    bug(
        name="a watch that moves begins one revision too late",
        file="client/watch.py",
        old="0 if self._from_now else self._next_revision,",
        new="0 if self._from_now else self._next_revision + 1,",
    ),
    bug(
        name="a watch that moves shows what it has shown",
        file="client/watch.py",
        old="events = [event for event in events if event.kv.mod_revision >= next_revision]",
        new="pass",
    ),
    bug(
        name="what was committed while a snapshot is loaded is not applied",
        file="replica/writes.py",
        old="        backlog, self._backlog, self._backlog_bytes = self._backlog, [], 0\n",
        new="        backlog, self._backlog, self._backlog_bytes = [], [], 0\n",
    ),
    bug(
        name="log segments go that are still needed",
        file="storage/log.py",
        old="return segment.top < keep_from and",
        new="return segment.top < keep_from + 20 and",
    ),
    bug(
        name="a snapshot gets its name before it is on the disk",
        file="storage/snapshot_file.py",
        old="        sync(self._file, self._name)\n        self._file.close()\n        self._publish",
        new="        self._file.close()\n        self._publish",
    ),
    bug(
        name="a transaction compares one key too few",
        file="kv/txn.py",
        old="all(holds(space, compare) for compare in txn.compare)",
        new="all(holds(space, compare) for compare in txn.compare[1:])",
    ),
    bug(
        name="a client takes a batch of unknown outcome for one that was never sent",
        file="client/writes.py",
        old="Writes(self.session, self.first_seq,",
        new="Writes(0, self.first_seq,",
    ),
    bug(
        name="who joins believes a follower that its name is taken",
        file="runtime/joining.py",
        old="if not isinstance(await _answer(call, Reads(2, ReadLevel(), ())), ReadResults):",
        new="if False:",
    ),
)
