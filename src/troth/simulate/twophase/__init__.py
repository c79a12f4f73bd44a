"""Two-phase commit in a world that fails: owners, two recoverers, databases, a last resource and the log.

The rules are the real ones: owners and recoverers do what core/twophase/table.py says, the log is
core/twophase/cells.py, names are core/twophase/gid.py. What is simulated is everything that the tables do not know:
messages that are lost, late or doubled; databases that crash, refuse, or answer "ROLLBACK" to a PREPARE; owners that
die or are paused at any step and wake up later (zombies); recoverers that take a living owner for dead; operators who
decide for themselves.

Processes are generators: ``reply = yield Call(...)`` is a message and its answer, or SILENT. A process that is killed
is not resumed any more; one that is paused is resumed later. In the end all is calm, owners are gone, and recoverers
finish: then the rules AC1 to AC5 of atomic commitment must hold (Bernstein, Hadzilacos, Goodman 1987, section 7.3).
"""

from troth.simulate.twophase.world import World as World
