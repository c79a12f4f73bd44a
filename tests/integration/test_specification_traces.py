"""What real servers do, step by step, is allowed by the executable specification of Raft."""

from pathlib import Path

import pytest
from real_cluster import Load, cluster_of, until, verified

from troth.verify.specification import check_trace, decode_trace

pytestmark = pytest.mark.integration


def test_real_servers_do_what_the_specification_allows(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    with cluster_of(3, trace_file=str(trace), snapshot_entries=50) as cluster:
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
    verdict = check_trace(decode_trace(trace.read_bytes().splitlines()), voters=voters)
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
