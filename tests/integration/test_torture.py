"""A short torture of a real cluster: all kinds of faults that need no long time, and every claim checked."""

from pathlib import Path

import pytest

from troth.torture import Plan, torture
from troth.torture.cluster import TrothCluster
from troth.torture.namespaces import Namespaces
from troth.torture.registers import WORKLOADS as REGISTER_WORKLOADS
from troth.torture.registers import RegisterSystem
from troth.verify.verdict import Status

pytestmark = pytest.mark.integration


def test_real_acceptors_of_registers_keep_all_claims(tmp_path: Path) -> None:
    plan = Plan(seed=6, seconds=10.0, workloads=REGISTER_WORKLOADS)
    outcome = torture(RegisterSystem(3, tmp_path / "servers"), plan, tmp_path)
    report = "\n".join([outcome.text(), *outcome.notes])
    assert outcome.status is Status.OK, report
    assert len(outcome.faults) >= 2, report
    for name, counts in outcome.operations.items():
        assert counts["ok"] >= 50, f"{name}\n{report}"


@pytest.mark.skipif(not Namespaces.possible(), reason="network namespaces need root and iproute2")
def test_a_real_cluster_keeps_all_claims_when_the_kernel_loses_its_packets(tmp_path: Path) -> None:
    plan = Plan(seed=3, seconds=10.0, nemeses=("partition", "kill"))
    outcome = torture(TrothCluster(3, tmp_path / "servers", namespaces=True), plan, tmp_path)
    report = "\n".join([outcome.text(), *outcome.notes])
    assert outcome.status is Status.OK, report
    assert outcome.faults.get("partition"), report


def test_a_real_cluster_keeps_all_claims(tmp_path: Path) -> None:
    told: list[str] = []
    outcome = torture(
        TrothCluster(3, tmp_path / "servers"),
        Plan(seed=20, seconds=12.0),
        tmp_path,
        tell=lambda at_s, operations, what: told.append(f"{at_s:.1f} s: {what}") if what else None,
    )
    report = "\n".join([*told, outcome.text(), *outcome.notes])
    assert outcome.status is Status.OK, report
    assert len(outcome.faults) >= 4, report
    for name, counts in outcome.operations.items():
        assert counts["ok"] >= 50, f"{name}\n{report}"
