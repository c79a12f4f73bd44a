"""`PaxosClient` against real acceptor processes: killed, stopped, wiped, exchanged, and served by `troth serve`."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from real_cluster import until

import troth
import troth.aio
from troth.client.registers.local import LocalAcceptors
from troth.core.register.codec import encode_ask
from troth.core.register.messages import Configure, Describe, Seat, founding, group_of
from troth.errors import (
    AlreadyDecided,
    ChangeFailed,
    NotApplied,
    OutcomeUnknown,
    TrothError,
    Unavailable,
    UsageError,
    WrongCluster,
)
from troth.ids import NodeId
from troth.verify.check import check
from troth.verify.formats.read import read_history
from troth.verify.verdict import Status
from troth.wire.frames import frame
from troth.wire.handshake import Hello, encode_greeting

pytestmark = pytest.mark.integration


@pytest.fixture
def acceptors(tmp_path: Path) -> Iterator[LocalAcceptors]:
    started = LocalAcceptors(tmp_path / "acceptors", 3)
    try:
        yield started
    finally:
        started.close()


def add_one(held: bytes | None) -> str:
    return str(int(held or 0) + 1)


def test_every_call_does_what_it_says(acceptors: LocalAcceptors) -> None:
    with troth.PaxosClient(acceptors.addresses) as registers:
        assert registers.get("a").value is None
        assert registers.put("a", "1").changed
        assert registers.get("a").value == b"1"
        assert not registers.cas("a", "0", "2").succeeded
        assert registers.cas("a", "1", "2").succeeded
        assert registers.cas("new", None, "x").succeeded
        assert registers.change("n", add_one).value == b"1"
        assert registers.change("n", add_one).value == b"2"
        assert registers.propose("once", "first").value == b"first"
        assert registers.propose("once", "second").value == b"first"
        with pytest.raises(AlreadyDecided):
            registers.put("once", "third")
        with pytest.raises(ChangeFailed) as raised:
            registers.change("a", lambda held: str(int(held or 0) // 0))
        assert isinstance(raised.value.__cause__, ZeroDivisionError)
        assert registers.delete("a").changed
        assert not registers.delete("a").changed
        assert registers.get("a").value is None
        assert registers.get("a").version == 0 or registers.get("a").value is None


def test_the_asyncio_client_is_its_twin(acceptors: LocalAcceptors) -> None:
    async def everything() -> None:
        async with troth.aio.PaxosClient(acceptors.addresses) as registers:
            assert (await registers.put("a", "1")).changed
            assert (await registers.get("a")).value == b"1"
            assert (await registers.cas("a", "1", "2")).succeeded
            assert not (await registers.cas("a", "1", "2")).succeeded
            await asyncio.gather(*(registers.change("n", add_one) for _ in range(20)))
            assert (await registers.get("n")).value == b"20"
            assert (await registers.propose("once", "x")).decided
            with pytest.raises(ChangeFailed):
                await registers.change("a", lambda held: str(1 // 0))
            assert (await registers.delete("a")).changed
            assert await registers.collect() in (0, 1)
            assert [view.state for view in await registers.acceptors()] == ["", "", ""]
        with pytest.raises(UsageError, match="closed"):
            await registers.get("a")

    asyncio.run(everything())


def test_increments_of_duelling_clients_happen_once_while_acceptors_are_killed(acceptors: LocalAcceptors) -> None:
    done = threading.Event()
    results: list[tuple[int, int]] = []

    def work(number: int) -> None:
        ok = unknown = 0
        with troth.PaxosClient(acceptors.addresses) as registers:
            while not done.is_set():
                try:
                    registers.change("n", add_one)
                    ok += 1
                except OutcomeUnknown:
                    unknown += 1
                except NotApplied:
                    pass
        results.append((ok, unknown))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    chance = random.Random(1)
    for _ in range(6):
        name = chance.choice(acceptors.names)
        acceptors.kill(name)
        acceptors.start(name)
    done.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    with troth.PaxosClient(acceptors.addresses) as registers:
        total = int(registers.get("n").value or 0)
    ok, unknown = sum(each[0] for each in results), sum(each[1] for each in results)
    assert ok > 50
    assert ok <= total <= ok + unknown


def test_all_acceptors_killed_at_once_keep_everything(acceptors: LocalAcceptors) -> None:
    with troth.PaxosClient(acceptors.addresses) as registers:
        for number in range(50):
            registers.put(f"k{number}", f"v{number}")
        for name in acceptors.names:
            acceptors.kill(name)
        with pytest.raises(Unavailable):
            registers.get("k1", within_s=0.3)
        for name in acceptors.names:
            acceptors.start(name)
        for number in range(50):
            assert registers.get(f"k{number}").value == f"v{number}".encode()


def test_an_acceptor_that_hangs_holds_nobody_up_and_exhausts_nothing(acceptors: LocalAcceptors) -> None:
    with troth.PaxosClient(acceptors.addresses, timeout=20) as registers:
        registers.put("k", "0")
        acceptors.pause("a2")
        try:
            took_s = []
            for number in range(600):
                began = time.monotonic()
                registers.put("k", str(number))
                took_s.append(time.monotonic() - began)
            assert statistics.median(took_s) < 1, "no call waited for the one that hangs"
            assert threading.active_count() < 60
            acceptors.pause("a3")
            with pytest.raises(TrothError) as raised:
                registers.put("k", "x", within_s=2)
            assert isinstance(raised.value, OutcomeUnknown)
            with pytest.raises(Unavailable):
                registers.get("k", within_s=0.5)
        finally:
            for name in ("a2", "a3"):
                acceptors.resume(name)
        assert registers.get("k").value in (b"599", b"x")


def test_what_clients_saw_is_linearizable_while_acceptors_die(acceptors: LocalAcceptors, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    done = threading.Event()
    done_so_far = [0] * 4

    def work(number: int) -> None:
        chance = random.Random(number)
        with troth.PaxosClient(acceptors.addresses, timeout=2) as registers:
            count = 0
            while not done.is_set():
                count += 1
                key, value = f"k{chance.randrange(3)}", f"{number}.{count}"
                with contextlib.suppress(NotApplied, OutcomeUnknown):
                    match chance.randrange(5):
                        case 0:
                            registers.put(key, value)
                        case 1:
                            registers.get(key)
                        case 2:
                            registers.cas(key, registers.get(key).value, value)
                        case 3:
                            registers.change(key, lambda held, value=value: value)  # type: ignore[misc]
                        case _:
                            registers.delete(key)
                done_so_far[number] = count

    with troth.recording(path), ThreadPoolExecutor(4) as pool:
        working = [pool.submit(work, number) for number in range(4)]
        try:
            for name in ("a1", "a2", "a3", "a1"):
                wanted = sum(done_so_far) + 50
                until(lambda wanted=wanted: sum(done_so_far) >= wanted or any(each.done() for each in working))
                acceptors.kill(name)
                acceptors.start(name)
        finally:
            done.set()
        for each in working:
            each.result(60)
    history = read_history(path.read_bytes())
    assert len(history) > 100
    verdict = check(history, "linearizable", "kv")
    assert verdict.status is Status.OK, verdict.reason


def test_acceptors_are_exchanged_while_clients_run(tmp_path: Path) -> None:
    old = LocalAcceptors(tmp_path / "old", 3)
    new = LocalAcceptors(tmp_path / "new", 3)
    done = threading.Event()
    failures: list[TrothError] = []
    counts = [0, 0]

    def work(number: int) -> None:
        with troth.PaxosClient(old.addresses) as registers:
            while not done.is_set():
                try:
                    registers.change(f"n{number}", add_one)
                    counts[number] += 1
                except TrothError as error:
                    failures.append(error)

    try:
        with troth.PaxosClient(old.addresses) as operator:
            for number in range(100):
                operator.put(f"k{number}", "v")
            threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
            for thread in threads:
                thread.start()
            config = operator.set_acceptors([*old.addresses, new.addresses[0]])
            assert len(config.acceptors) == 4
            config = operator.set_acceptors(new.addresses)
            assert not config.is_joint
            before = list(counts)
            until(lambda: failures or all(after > old for after, old in zip(counts, before, strict=True)))
            done.set()
            for thread in threads:
                thread.join(60)
            assert not failures, failures[:3]
            old.close()
            for number in range(100):
                assert operator.get(f"k{number}").value == b"v"
            assert [int(operator.get(f"n{number}").value or 0) for number in range(2)] == counts
        with troth.PaxosClient(new.addresses) as registers:
            assert registers.get("k1").value == b"v"
            assert registers.configuration.id.epoch == 5
    finally:
        done.set()
        old.close()
        new.close()


def test_a_wiped_acceptor_has_no_voice_until_it_is_put_in_the_place_of_the_old_one(
    acceptors: LocalAcceptors,
) -> None:
    with troth.PaxosClient(acceptors.addresses) as registers:
        registers.put("k", "v")
        acceptors.kill("a1")
        shutil.rmtree(acceptors.directory / "a1")
        acceptors.start("a1")
        registers.put("k", "w")
        views = {view.address: view.state for view in registers.acceptors()}
        assert sum(bool(state) for state in views.values()) == 1
        # With another one down two of three answer, but one of the two is a stranger.
        acceptors.kill("a2")
        with pytest.raises(Unavailable):
            registers.get("k", within_s=0.5)
        acceptors.start("a2")
        registers.set_acceptors(acceptors.addresses)
        assert all(not view.state for view in registers.acceptors())
        acceptors.kill("a2")
        assert registers.get("k").value == b"w"


def test_tombstones_are_collected_in_the_background(acceptors: LocalAcceptors) -> None:
    with troth.PaxosClient(acceptors.addresses) as registers:
        for number in range(30):
            registers.put(f"k{number}", "v")
            registers.delete(f"k{number}")
        until(lambda: not any(view.registers for view in registers.acceptors()))
        assert [(view.registers, view.tombstones, view.bytes) for view in registers.acceptors()] == [(0, 0, 0)] * 3
        acceptors.kill("a3")
        registers.put("x", "v")
        registers.delete("x")
        with pytest.raises(Unavailable):
            registers.collect(within_s=0.5)
        acceptors.start("a3")
        registers.collect()
        assert registers.get("x").value is None


def test_local_acceptors_of_a_program_keep_their_data_and_end_with_it(tmp_path: Path) -> None:
    with troth.PaxosClient.local(tmp_path / "data", 3) as registers:
        registers.put("k", "v")
    with troth.PaxosClient.local(tmp_path / "data", 3) as registers:
        assert registers.get("k").value == b"v"
    with pytest.raises(UsageError, match="3 acceptors"):
        troth.PaxosClient.local(tmp_path / "data", 5)
    program = (
        "import os, sys, troth\n"
        "registers = troth.PaxosClient.local(sys.argv[1], 3)\n"
        "print(*[each.pid for each in registers.local_acceptors.processes.values()], flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "killed")], capture_output=True, text=True, check=False
    )
    pids = [int(pid) for pid in ended.stdout.split()]
    assert len(pids) == 3
    until(lambda: not any(_runs(pid) for pid in pids))


def test_the_asyncio_client_starts_acceptors_too(tmp_path: Path) -> None:
    async def everything() -> list[int | None]:
        async with await troth.aio.PaxosClient.local(tmp_path / "data", 3) as registers:
            assert (await registers.put("k", "v")).changed
            assert registers.local_acceptors is not None
            processes = registers.local_acceptors.processes.values()
        return [process.poll() for process in processes]

    assert asyncio.run(everything()) == [0, 0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="shown in /proc")
def test_local_acceptors_have_large_pages_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel clears those away sooner when one is killed, on a core that the others want."""
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("PYTHONMALLOC", "pymalloc")
    acceptors = LocalAcceptors(tmp_path / "data", 1)
    try:
        told = Path(f"/proc/{acceptors.processes['a1'].pid}/environ").read_bytes().split(b"\0")
        assert b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1" in told and b"PYTHONMALLOC=pymalloc" in told
    finally:
        acceptors.close()


def test_local_acceptors_outlive_the_thread_that_started_them(tmp_path: Path) -> None:
    started: list[troth.PaxosClient] = []
    thread = threading.Thread(target=lambda: started.append(troth.PaxosClient.local(tmp_path / "data", 3)))
    thread.start()
    thread.join()
    with started[0] as registers:
        assert registers.put("k", "v").changed
        assert all(not view.state for view in registers.acceptors())


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_servers_of_a_cluster_are_acceptors_too(tmp_path: Path) -> None:
    """The same process and port; the registers survive all servers killed at once, and are apart from the key space."""
    with troth.LocalCluster(3, data_dir=tmp_path / "cluster") as cluster:
        with troth.PaxosClient(cluster.url) as registers, cluster.connect() as client:
            client.put("k", "in the log")
            registers.put("k", "in a register")
            assert registers.change("n", add_one).value == b"1"
            served = [server.acceptor for server in client.status()]
            assert sum(each["registers"] for each in served if each) >= 2 * 2  # two registers, a quorum each
            assert {each["epoch"] for each in served if each} == {1}
            for name in cluster.names:
                cluster.kill(name)
            for name in cluster.names:
                cluster.restart(name)
            assert registers.get("k", within_s=60).value == b"in a register"
            assert client.get("k").value == b"in the log"
            follower = next(name for name in cluster.names if name != cluster.leader())
            cluster.kill(follower)
            cluster.kill(cluster.leader())
            with pytest.raises(Unavailable):
                registers.get("k", within_s=0.5)


def test_registers_outlive_the_exchange_of_every_server_of_their_cluster() -> None:
    """The set does not follow the members by itself: a server with a seat is not removed before another has it."""
    with troth.LocalCluster(3) as cluster:
        before = cluster.names
        with troth.PaxosClient(cluster.url) as registers:
            assert registers.propose("builder", "host-3").decided
            with pytest.raises(UsageError, match="acceptors that hold registers"):
                cluster.remove_server(before[0])
            newcomers = [cluster.add_server() for _ in range(3)]
            with cluster.connect() as client:
                members = {peer.member.name: peer.member.client_address for peer in client.members()}
            addresses = [members[name] for name in newcomers]
            with pytest.raises(UsageError, match="came later"):
                troth.PaxosClient(addresses).close()
            registers.set_acceptors(addresses)
        for name in before:
            cluster.remove_server(name)
        with troth.PaxosClient(cluster.url) as registers:
            assert registers.propose("builder", "host-9").value == b"host-3"


def test_two_acceptors_do_not_become_a_set_by_themselves(acceptors: LocalAcceptors) -> None:
    with pytest.raises(UsageError, match="found=True"):
        troth.PaxosClient(acceptors.addresses[:2])
    with troth.PaxosClient(acceptors.addresses[:2], found=True) as registers:
        registers.put("k", "v")
    with troth.PaxosClient(acceptors.addresses[2:], found=True) as other, pytest.raises(WrongCluster):
        other.set_acceptors(acceptors.addresses)

    def noticed() -> bool:
        """The stranger may be the last to say who it is; a client that has a quorum does not wait for that."""
        try:
            with troth.PaxosClient([acceptors.addresses[2], *acceptors.addresses[:2]]) as mixed:
                mixed.get("k")
        except WrongCluster:
            return True
        return False

    until(noticed)


def test_a_new_set_is_not_founded_while_an_acceptor_is_missing(acceptors: LocalAcceptors) -> None:
    acceptors.kill("a2")
    with pytest.raises(Unavailable, match="all must be up the first time"):
        troth.PaxosClient(acceptors.addresses, timeout=2)
    with pytest.raises(Unavailable, match="are they running"):
        troth.PaxosClient(["127.0.0.1:1", "127.0.0.1:2"], timeout=0.5)


def test_flexible_quorums(acceptors: LocalAcceptors) -> None:
    with troth.PaxosClient(acceptors.addresses, prepare=3, accept=1) as registers:
        registers.put("k", "v")
        registers.set_acceptors(acceptors.addresses, prepare=1, accept=3)
        assert registers.get("k").value == b"v"
        with pytest.raises(UsageError, match="need not meet"):
            registers.set_acceptors(acceptors.addresses, prepare=1, accept=1)


def test_garbage_at_an_acceptor_disturbs_nobody(acceptors: LocalAcceptors) -> None:
    hello = frame(encode_greeting(Hello("register")))
    pieces = [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, hello + b"\xff" * 16, hello + frame(b"\xc1"), hello]
    pieces.append(hello + frame(encode_ask(1, Describe())[:-1]))
    configure = encode_ask(1, Configure(founding(group_of((Seat(NodeId(1), "abcd"),)))))
    pieces.append(hello + frame(configure.replace(b"abcd", b"\xff\xfe\xfd\xfc")))
    with troth.PaxosClient(acceptors.addresses) as registers:
        registers.put("k", "0")
        for number, piece in enumerate(pieces):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(acceptors.address("a1").removeprefix("unix:"))
                stranger.sendall(piece)
                assert registers.put("k", str(number)).changed
        assert all(not view.state for view in registers.acceptors())
    with pytest.raises(TrothError), troth.connect(f"troth://{acceptors.address('a1')}", timeout=1) as client:
        client.get("k")


def test_arguments_that_make_no_sense_are_refused(acceptors: LocalAcceptors) -> None:
    with troth.PaxosClient(acceptors.addresses) as registers:
        for key in ("", "k" * 2000, b"\0mine"):
            with pytest.raises(UsageError):
                registers.put(key, "v")
        with pytest.raises(UsageError):
            registers.put("k", bytes((1 << 20) + 1))
        with pytest.raises(UsageError):
            registers.put("k", 7)  # type: ignore[arg-type]
        with pytest.raises(ChangeFailed):
            registers.change("k", lambda held: 7)  # type: ignore[arg-type, return-value]
        assert registers.put("k", bytes(1 << 20)).changed
        assert registers.get("k").value == bytes(1 << 20)
    with pytest.raises(UsageError, match="closed"):
        registers.get("k")
    with pytest.raises(UsageError):
        troth.PaxosClient([])
    with pytest.raises(UsageError):
        troth.PaxosClient(["nonsense"])


_ENDS_UNCLOSED = """
import sys, time, troth
registers = troth.PaxosClient.local(sys.argv[1], 3, timeout=600)
for number in range(5):
    registers.put(f"k{number}", "v")
registers.local_acceptors.pause("a3")
for number in range(5):
    registers.put(f"k{number}", "w")
    registers.delete(f"k{number}")
print(registers.local_acceptors.address("a1").removeprefix("unix:"))
"""


def test_a_program_that_does_not_close_its_client_ends_at_once_and_leaves_no_sockets(tmp_path: Path) -> None:
    """Threads wait for an acceptor that hangs, and five deleted registers to be collected, for ten minutes."""
    ended = subprocess.run(
        [sys.executable, "-c", _ENDS_UNCLOSED, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stderr == ""
    assert not Path(ended.stdout.strip()).parent.exists()


_IS_INTERRUPTED = """
import signal, sys, troth
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
with troth.PaxosClient.local(sys.argv[1], 3, timeout=10) as registers:
    registers.put("k", "v")
    try:
        print("ready", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        print(registers.put("k", "last").changed)
    print([process.poll() for process in registers.local_acceptors.processes.values()])
"""


def test_ctrl_c_reaches_the_program_and_leaves_it_its_acceptors(tmp_path: Path) -> None:
    """A terminal sends SIGINT to all processes of the group; what becomes of acceptors is for the program to say."""
    with subprocess.Popen(
        [sys.executable, "-c", _IS_INTERRUPTED, str(tmp_path / "data")],
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None and program.stdout.readline() == "ready\n"
        os.killpg(program.pid, signal.SIGINT)
        try:
            output, _ = program.communicate(timeout=60)
        finally:
            program.kill()
        assert output.split("\n") == ["True", "[None, None, None]", ""]
