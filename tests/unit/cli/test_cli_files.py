"""Files in: rows to load, the demo's inventory. Files out: certificates."""

import asyncio
import json
import os
import ssl
import stat
from pathlib import Path

import pytest

from troth.cli.certs import ServerNames, parse_server, write_set
from troth.cli.feed import feed
from troth.cli.inventory import inventory, often_enough, owners
from troth.cli.ring_files import write_whole
from troth.cli.rows import Row, format_of, read_rows
from troth.client.replies import PutReply
from troth.errors import Unavailable, UsageError


def rows_of(path: Path, text: str, **options: str) -> list[Row]:
    path.write_text(text)
    return list(read_rows(path, file_format=format_of(path), **options))


def test_csv_rows_become_json_objects_and_a_single_column_stays_text(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.csv", 'id,name,city\n1,Ada,London\n2,"Lin, M",Oslo\n', key="id", prefix="u/")
    assert rows[0] == Row(b"u/1", b'{"name":"Ada","city":"London"}')
    assert json.loads(rows[1].value)["name"] == "Lin, M"
    assert rows_of(tmp_path / "b.tsv", "k\tv\na\t1\n") == [Row(b"a", b"1")]


def test_a_cell_may_be_as_large_as_a_value(tmp_path: Path) -> None:
    assert rows_of(tmp_path / "a.csv", f"k,v\na,{'x' * 1_000_000}\n") == [Row(b"a", b"x" * 1_000_000)]


def test_jsonl_rows(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "a.jsonl", '{"id": 7, "v": "x"}\n\n{"id": "b", "v": 1, "w": [2]}\n')
    assert rows == [Row(b"7", b"x"), Row(b"b", b'{"v":1,"w":[2]}')]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "k,v\na,1\nb\n", "line 3: 1 cells, but the header names 2"),
        ("a.csv", "k,v\n,1\n", "line 2: the key is empty"),
        ("a.csv", 'k,v\n1,"open\n2,b\n', "line 3: unexpected end of data"),
        ("a.csv", "k;v\n1;2\n", "';' stands between the columns"),
        ("a.csv", "k\tv\n1\t2\n", "stands between the columns"),
        ("a.tsv", "k,v\n1,2\n", "',' stands between the columns"),
        ("a.jsonl", '{"k": 1, "v": NaN}\n', "line 1: not JSON .there is no number NaN"),
        ("a.jsonl", '{"k": 1, "v": 1e400}\n', "line 1: a number is too large"),
        ("a.jsonl", '{"k": 1, "v": {"a": 1, "a": 2}}\n', "line 1: not JSON .a field 'a' is there twice"),
        ("a.jsonl", '{"k": 1}\nnonsense\n', "line 2: not JSON"),
        ("a.jsonl", "[1]\n", "line 1: a line must be a JSON object"),
        ("a.jsonl", '{"k": "\\ud800", "v": ""}\n', "line 1: not text that UTF-8 can carry"),
        ("a.jsonl", '{"k": "a", "v": "\\ud800"}\n', "line 1: not text that UTF-8 can carry"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        rows_of(tmp_path / name, text)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"k,v\n\xff\xfe,1\n")
    with pytest.raises(UsageError, match="not UTF-8"):
        list(read_rows(tmp_path / "a.csv", file_format="csv"))
    with pytest.raises(UsageError, match="--format"):
        format_of(Path("a.bin"))
    with pytest.raises(UsageError, match="no column 'x'"):
        rows_of(tmp_path / "b.csv", "k,v\n", key="x")


class Puts:
    """An asyncio client that takes puts, and refuses the one numbered *fails_at*."""

    def __init__(self, fails_at: int = -1) -> None:
        self.keys: list[bytes] = []
        self.outstanding = self.outstanding_max = 0
        self.fails_at = fails_at

    async def put(self, key: bytes, value: bytes) -> PutReply:
        self.outstanding += 1
        self.outstanding_max = max(self.outstanding_max, self.outstanding)
        await asyncio.sleep(0)
        self.outstanding -= 1
        self.keys.append(key)
        if len(self.keys) == self.fails_at:
            raise Unavailable("no quorum")
        return PutReply(revision=len(self.keys) + 1, server="n1")


def test_feeding_keeps_to_its_bound_and_reports_every_row() -> None:
    client, seen = Puts(), []
    rows = [Row(b"%d" % number, b"") for number in range(100)]
    done = asyncio.run(
        feed(client, rows, outstanding=7, acknowledged=lambda row, revision: seen.append(row.key))  # type: ignore[arg-type]
    )
    assert done == 100
    assert sorted(seen) == sorted(row.key for row in rows)
    assert client.outstanding_max == 7


def test_rows_of_one_key_are_never_under_way_together() -> None:
    class Slow(Puts):
        """Answers the later of two the sooner, as a cluster may when the earlier has to be sent again."""

        def __init__(self) -> None:
            super().__init__()
            self.values: dict[bytes, bytes] = {}

        async def put(self, key: bytes, value: bytes) -> PutReply:
            for _ in range(10 - int(value)):
                await asyncio.sleep(0)
            self.values[key] = value
            return await super().put(key, value)

    client = Slow()
    rows = [Row(key, b"%d" % value) for value in range(10) for key in (b"a", b"b")]
    assert asyncio.run(feed(client, rows, outstanding=8)) == 20  # type: ignore[arg-type]
    assert client.values == {b"a": b"9", b"b": b"9"}


def test_feeding_stops_at_the_first_failure() -> None:
    client = Puts(fails_at=10)
    rows = [Row(b"%d" % number, b"") for number in range(1000)]
    with pytest.raises(Unavailable):
        asyncio.run(feed(client, rows, outstanding=4))  # type: ignore[arg-type]
    assert len(client.keys) < 20


def test_the_rows_of_a_machine_with_few_files_are_written_several_times() -> None:
    rows = [Row(b"/a", b"1"), Row(b"/b", b"2")]
    assert often_enough(rows, 5) == rows * 3
    assert often_enough(rows, 2) == rows and often_enough([], 5) == []


def test_the_inventory_takes_the_next_root_only_while_rows_are_missing(tmp_path: Path) -> None:
    for root in ("one", "two"):
        (tmp_path / root / "inner").mkdir(parents=True)
        (tmp_path / root / "inner" / "file").write_text("abc")
    roots = (str(tmp_path / "one"), str(tmp_path / "two"))
    assert len(inventory(rows_min=1, rows_max=100, roots=roots)) == 2
    rows = inventory(rows_min=3, rows_max=100, roots=roots)
    assert {Path(row.key.decode()).name for row in rows} == {"inner", "file"}
    assert len(rows) == 4
    assert len(inventory(rows_min=3, rows_max=3, roots=roots)) == 3
    (row,) = [row for row in rows if row.key.endswith(b"one/inner/file")]
    assert json.loads(row.value)["size"] == 3


def test_owners_come_from_dpkg_s_lists(tmp_path: Path) -> None:
    (tmp_path / "bash.list").write_text("/bin/bash\n/usr/share/doc/bash\n")
    (tmp_path / "libc6:amd64.list").write_text("/lib/libc.so.6\n")
    assert owners(tmp_path) == {"/bin/bash": "bash", "/usr/share/doc/bash": "bash", "/lib/libc.so.6": "libc6"}


def handshake(server_context: ssl.SSLContext, client_context: ssl.SSLContext, name: str) -> None:
    """A TLS handshake in memory; raises ssl.SSLError when either side refuses."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass


def contexts(directory: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    ca = str(directory / "ca.pem")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    server.load_cert_chain(directory / f"{name}.pem", directory / f"{name}.key")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=ca)
    client.load_cert_chain(directory / "client.pem", directory / "client.key")
    return server, client


def test_the_certificates_work_with_each_other_and_with_nobody_else(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    servers = [parse_server("n1=node1.example,10.0.0.1")]
    write_set(ours, servers, days=30)
    write_set(theirs, servers, days=30)
    server, client = contexts(ours, "n1")
    handshake(server, client, "node1.example")
    handshake(server, client, "127.0.0.1")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, "elsewhere.example")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(contexts(theirs, "n1")[0], client, "node1.example")


def test_a_server_can_be_added_later_and_what_is_there_stays(tmp_path: Path) -> None:
    write_set(tmp_path, [ServerNames("n1", ("localhost",))], days=30)
    before = (tmp_path / "n1.pem").read_bytes()
    written = write_set(tmp_path, [ServerNames("n1", ("localhost",)), ServerNames("n2", ("localhost",))], days=30)
    assert [path.name for path in written] == ["n2.pem", "n2.key"]
    assert (tmp_path / "n1.pem").read_bytes() == before
    server, client = contexts(tmp_path, "n2")
    handshake(server, client, "localhost")
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("text", ["", "=host", "../n1=host", "ca=host"])
def test_a_server_name_that_cannot_be_a_file_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_server(text)


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path, [], days=30)
    (tmp_path / "client.key").unlink()
    with pytest.raises(UsageError, match=r"only one of client\.pem"):
        write_set(tmp_path, [], days=30)


def test_what_a_plan_says_is_on_disk_under_its_name_before_its_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or else a power cut brings back the record of before a switch, and older values are copied over newer ones."""
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode)))
    write_whole(tmp_path / "plan.json", b"{}")
    assert synced == [False, True]


@pytest.mark.parametrize(
    "text",
    [
        "n1=ü.example",
        "n1=two words",
        "n1=10.0.0.1/24",
        "n1=host:7001",
        "n1= ",
        "x" * 65 + "=host",
        "n\udcff=host",
        "n 1=host",
    ],
)
def test_a_name_that_no_certificate_can_carry_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--server NAME=HOST,HOST"):
        parse_server(text)


def test_hosts_are_names_and_addresses_of_both_kinds() -> None:
    hosts = ("db-1.example", "*.example", "10.0.0.1", "2001:db8::1", "my_host", "xn--bcher-kva.example")
    assert parse_server("n1=" + ",".join(hosts)).hosts == hosts


def test_a_ca_that_is_none_or_of_somebody_else_is_told(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    server = [ServerNames("n1", ("localhost",))]
    for directory in (ours, theirs):
        write_set(directory, server, days=1)
    ours_key = (ours / "ca.key").read_bytes()
    for key, certificate in (
        (b"no key", (ours / "ca.pem").read_bytes()),
        (ours_key, b"no certificate"),
        (ours_key, (theirs / "ca.pem").read_bytes()),
    ):
        (ours / "ca.key").write_bytes(key)
        (ours / "ca.pem").write_bytes(certificate)
        with pytest.raises(UsageError, match=r"ca\.key and ca\.pem"):
            write_set(ours, [ServerNames("n2", ("localhost",))], days=1)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,x,x\n1,2,3\n")
    with pytest.raises(UsageError, match="'x' twice"):
        list(read_rows(path, file_format="csv"))


def test_json_nested_without_end_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": ' + "[" * 200_000 + "\n")
    with pytest.raises(UsageError, match="line 2"):
        list(read_rows(path, file_format="jsonl"))
