"""What a server's settings come to in ticks, however long a tick is; and what it begins with after a crash."""

import random
from pathlib import Path

import pytest

from troth.core.interface import Ballot, EntryId, HardState, Membership, Persist, SnapshotMeta
from troth.ids import ClusterId, LogIndex, NodeId, Term, Tick
from troth.server.config import ServerConfig
from troth.server.recovering import engine_config, started_engine
from troth.simulate.disk import SimulatedDisk
from troth.storage.directory import open_directory
from troth.storage.identity import Identity


@pytest.mark.parametrize("tick_ms", [1, 10, 50])
def test_durations_last_as_long_whatever_a_tick_is(tick_ms: int, tmp_path: Path) -> None:
    config = ServerConfig(name="n1", data_dir=str(tmp_path), tick_ms=tick_ms)
    engine = engine_config(config)
    assert engine.heartbeat_ticks * tick_ms == config.heartbeat_ms
    assert engine.election_timeout_ticks * tick_ms == config.election_timeout_ms
    assert engine.disk_timeout_ticks * tick_ms == 3000


@pytest.mark.parametrize("consensus", ["raft", "paxos"])
def test_a_snapshot_that_is_durable_before_the_term_brings_the_term_with_it(
    consensus: str, tmp_path: Path
) -> None:
    """The leader of term 7 sent it; what it holds was proposed in term 3, and the leader of term 5 knows none of it."""
    config = ServerConfig(name="n3", data_dir=str(tmp_path), consensus=consensus)
    members = Membership(voters=tuple(map(NodeId, (1, 2, 3))))
    who = Identity(ClusterId(1), NodeId(3), "n3", members, consensus)
    files = SimulatedDisk(random.Random(1))
    directory = open_directory(files, who)
    directory.log.append([Persist(hard_state=HardState(Term(4)))])
    directory.log.sync()
    sent_by = Ballot(Term(7), NodeId(1 if consensus == "paxos" else 0))
    meta = SnapshotMeta(EntryId(Term(3), LogIndex(9)), members, sent_by)
    directory.snapshots.write(meta, [b"state"])
    directory.log.append([Persist(hard_state=HardState(Term(7), sent_by.node), snapshot=meta)])
    files.power_loss()
    directory = open_directory(files, who)
    assert (directory.recovered.hard_state, directory.recovered.snapshot) == (HardState(Term(4)), meta)
    engine = started_engine(
        config, who, directory, snapshot=meta, rng=random.Random(1), now=Tick(0), settings=lambda chosen: chosen
    )
    status = engine.status()
    assert (status.commit_index, status.term, status.voted_for) == (9, 7, sent_by.node)
