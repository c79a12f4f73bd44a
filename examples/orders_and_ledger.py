"""An order in PostgreSQL and its entry in MariaDB: both or none, whatever dies.

The shop is killed (kill -9) in the middle of an order, between the commit in one database and the commit in the other.
SQLAlchemy alone would leave the other half locked for ever; here the restarted shop finishes it by itself. The client
then sends the order again, under the same key, since it never heard that it was accepted; it counts once.

Needs the two servers on this machine (make databases) and SQLAlchemy; they are started in a temporary
directory.
"""

import os
import signal
import subprocess
import sys
import tempfile

import sqlalchemy as sa

from troth import TwoPhaseCommit
from troth.torture.databases import MariaDBServer, PostgresServer

tables = sa.MetaData()
orders = sa.Table(
    "orders", tables, sa.Column("id", sa.String(20), primary_key=True), sa.Column("cents", sa.Integer)
)
ledger = sa.Table("ledger", tables, sa.Column("id", sa.Integer, primary_key=True), sa.Column("cents", sa.Integer))


def die(step: str) -> None:
    """Pull the plug once the first of the two databases has committed."""
    if step == "after_first_commit":
        os.kill(os.getpid(), signal.SIGKILL)


def shop(orders_url: str, ledger_url: str, log: str, fate: str) -> None:
    """A process of the shop that accepts one order."""
    shop_db, ledger_db = sa.create_engine(orders_url), sa.create_engine(ledger_url)
    on_step = die if fate == "dies" else lambda step: None
    with TwoPhaseCommit({"orders": shop_db, "ledger": ledger_db}, log=log, on_step=on_step) as tpc:
        tpc.recover()
        show(fate, shop_db, ledger_db)
        with tpc.begin(timeout=5, key="order-4711") as tx:
            tx[shop_db].execute(orders.insert().values(id="order-4711", cents=1999))
            tx[ledger_db].execute(ledger.insert().values(cents=1999))
        print("  the order was accepted before" if tx.replayed else "  the order is accepted", flush=True)
    for engine in (shop_db, ledger_db):
        engine.dispose()


def show(fate: str, shop_db: sa.Engine, ledger_db: sa.Engine) -> None:
    """What the two databases hold when the shop starts."""
    with shop_db.connect() as shop_side, ledger_db.connect() as ledger_side:
        ordered = shop_side.scalars(sa.select(orders.c.cents)).all()
        booked = ledger_side.scalars(sa.select(ledger.c.cents)).all()
    assert ordered == booked, "half an order"
    print(f"the shop starts ({fate}): orders {ordered}, ledger {booked}", flush=True)


def main() -> None:
    with PostgresServer() as postgres, MariaDBServer() as mariadb, tempfile.TemporaryDirectory() as log:
        for url, table in ((postgres.url(), orders), (mariadb.url(), ledger)):
            engine = sa.create_engine(url)
            table.create(engine)
            engine.dispose()
        for fate in ("dies", "lives"):
            words = [sys.executable, __file__, postgres.url(), mariadb.url(), log, fate]
            code = subprocess.run(words, check=False).returncode
            assert code == (-signal.SIGKILL if fate == "dies" else 0), code
        print("one order, one entry, nothing in doubt")


if __name__ == "__main__":
    shop(*sys.argv[1:]) if len(sys.argv) > 1 else main()
