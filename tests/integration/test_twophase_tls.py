"""MariaDB behind TLS: what is told to it below the driver goes through the same encryption."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from bank import prepared

from troth import TwoPhaseCommit
from troth.errors import Aborted
from troth.torture.databases import MariaDBServer, PostgresServer
from troth.transactions import fan
from troth.transactions.outcome import Outcome

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate"),
]


@pytest.fixture(scope="module")
def certificate() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="troth-tls-"))
    made.chmod(0o755)  # the server runs as another user
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(made / "key.pem")]
    subprocess.run([*command, "-out", str(made / "cert.pem")], check=True, capture_output=True)
    (made / "key.pem").chmod(0o644)
    yield made / "cert.pem"
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def mariadb_tls(certificate: Path) -> Iterator[MariaDBServer]:
    key = certificate.with_name("key.pem")
    with MariaDBServer(ssl_cert=certificate, ssl_key=key, require_secure_transport="ON") as server:
        yield server


@pytest.fixture
def engines(
    mariadb_tls: MariaDBServer, certificate: Path, postgres: PostgresServer
) -> Iterator[dict[str, sa.Engine]]:
    secure: Any = {"ssl": {"ca": str(certificate)}}
    ledger = sa.create_engine(mariadb_tls.url("pymysql"), connect_args=secure, pool_size=1, max_overflow=0)
    bank = sa.create_engine(postgres.url())
    for engine in (bank, ledger):
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS secret")
            connection.exec_driver_sql("CREATE TABLE secret (id INTEGER PRIMARY KEY)")
    yield {"bank": bank, "ledger": ledger}
    bank.dispose()
    ledger.dispose()


def rows(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT id FROM secret ORDER BY id")))


def work(tx: Any, row: int, *names: str) -> None:
    for name in names:
        tx[name].exec_driver_sql(f"INSERT INTO secret VALUES ({row})")


def test_pymysql_commits_alone_or_with_others_and_rolls_back_within_tls(
    engines: dict[str, sa.Engine], tmp_path: Path, postgres: PostgresServer
) -> None:
    with TwoPhaseCommit(engines, log=tmp_path, recover_every=None) as tpc:
        with tpc.begin() as tx:
            work(tx, 1, "ledger")
            name, cipher = tx["ledger"].exec_driver_sql("SHOW STATUS LIKE 'Ssl_cipher'").one()
            assert (name, bool(cipher)) == ("Ssl_cipher", True)
        for row, timeout in ((2, None), (3, 20.0)):  # PyMySQL waits otherwise where there is a bound
            with tpc.begin(timeout=timeout) as tx:
                work(tx, row, "bank", "ledger")
            assert (tx.outcome, tx.pending) == (Outcome.COMMITTED, ())
        with pytest.raises(ZeroDivisionError), tpc.begin() as tx:
            work(tx, 4, "bank", "ledger")
            raise ZeroDivisionError
    assert (rows(engines["bank"]), rows(engines["ledger"])) == ([2, 3], [1, 2, 3])
    assert prepared(postgres.url()) == []


def test_who_never_answers_within_tls_keeps_no_block_from_its_end(
    engines: dict[str, sa.Engine], mariadb_tls: MariaDBServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fan, "ANSWER_WITHIN_S", 0.5 - 20)
    with TwoPhaseCommit(engines, log=tmp_path, recover_every=None) as tpc:
        try:
            with pytest.raises(Aborted, match="has not answered in time") as caught, tpc.begin(timeout=20) as tx:
                work(tx, 1, "bank", "ledger")
                mariadb_tls.pause()
        finally:
            mariadb_tls.resume()
        assert caught.value.participant == "ledger"
        while tpc.recover().in_doubt:
            pass
    assert rows(engines["bank"]) == []
