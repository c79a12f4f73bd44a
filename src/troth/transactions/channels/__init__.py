"""One statement on many connections from one thread: send on all, then wait for all.

A channel sits on one driver connection, below SQLAlchemy's transaction. `Channel.start` sends and returns at once; the
function that it returns waits for the answers. Two databases then sync at the same time, and nobody pays for a thread
(measured: threads cost more than they gain on a fast disk). Drivers that can only block are run in threads when there
is more than one; asyncio drivers become tasks.

Statements go out as they are, outside of the driver's own idea of transactions: PostgreSQL's PREPARE TRANSACTION is
answered with the *tag* ``ROLLBACK``, and no error, when the transaction had failed; no driver's own ``tpc_prepare``
looks at it (psycopg/psycopg2#1213), so here the tag is part of the answer.
"""
