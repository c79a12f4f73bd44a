"""What real servers do, step by step, is allowed by the executable specification of their engine."""

from pathlib import Path

import pytest
from real_cluster import Load, cluster_of, until, verified

from troth.verify.specification import check_trace, decode_trace
from troth.verify.specification.multipaxos_trace import check_paxos_trace, decode_paxos_trace

pytestmark = pytest.mark.integration


def traced_run(trace: Path, consensus: str) -> tuple[list[bytes], list[int]]:
    """The lines that a cluster of three wrote while its leader was killed, another paused, one added and one removed;
    and its founders."""
    with cluster_of(3, trace_file=str(trace), snapshot_entries=50, consensus=consensus) as cluster:
        voters = [cluster.node_id(name) for name in cluster.names]
        with Load(cluster.url, outstanding=4) as load:
            killed = cluster.leader()
            cluster.kill(killed)
            load.wait_more(60)
            cluster.restart(killed)
            paused = cluster.leader()
            cluster.pause(paused)
            load.wait_more(60)
            cluster.resume(paused)
            newcomer = cluster.add_server()
            until(lambda: cluster.servers[newcomer].status().applied_index > 0)
            load.wait_more(30)
            removed = cluster.leader()
            cluster.remove_server(removed)
            load.wait_more(30)
        verified(cluster, load)
    return trace.read_bytes().splitlines(), voters


def test_real_paxos_servers_do_what_the_specification_allows(tmp_path: Path) -> None:
    lines, voters = traced_run(tmp_path / "trace.jsonl", "paxos")
    steps = list(decode_paxos_trace(lines))
    reason, checker = check_paxos_trace(steps, voters=voters)
    assert not reason
    assert len(checker.agreed) >= 100
    assert checker.counts.keys() >= {"boot", "promise", "accept", "durable", "lead", "chosen"}
    # The same run without one server's acceptances is not allowed: the check can fail.
    silent = [step for step in steps if step.event != "durable" or step.node == steps[0].node]
    assert check_paxos_trace(silent, voters=voters)[0]


def test_real_servers_do_what_the_specification_allows(tmp_path: Path) -> None:
    lines, voters = traced_run(tmp_path / "trace.jsonl", "raft")
    verdict = check_trace(decode_trace(lines), voters=voters)
    assert verdict.refusal is None, verdict.refusal.text()
    assert verdict.committed >= 100
    assert verdict.actions.keys() >= {
        *(
            "timeout",
            "handle_vote_request",
            "become_leader",
            "append",
            "replicate",
            "advance_commit",
            "learn_commit",
        ),
        *("persist", "restart", "begin_change", "leave_joint"),
    }
