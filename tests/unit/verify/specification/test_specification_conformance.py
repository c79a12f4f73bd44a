"""The trace checker on small traces written by hand: the first step that Raft does not allow is named, in words."""

from typing import Literal

import pytest

from troth.errors import DecodeError
from troth.verify.specification import Change, Conformance, Step, check_trace, decode_trace, encode_step

Role = Literal["follower", "candidate", "leader"]


class Script:
    """A trace in the making; three servers, all started."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        for node in (1, 2, 3):
            self.add(node, "boot", snapshot=(0, 0))

    def add(
        self,
        node: int,
        event: Literal["boot", "change", "durable"] = "change",
        *,
        term: int = 0,
        vote: int = 0,
        role: Role = "follower",
        commit: int = 0,
        log: tuple[int, list[int]] | None = None,
        snapshot: tuple[int, int] | None = None,
        stored: tuple[int, int] | None = None,
    ) -> None:
        change = (
            None if log is None else Change(first=log[0], entries=tuple((term, f"v{term}") for term in log[1]))
        )
        self.steps.append(
            Step(
                node=node,
                event=event,
                term=term,
                voted_for=vote,
                role=role,
                commit=commit,
                log=change,
                snapshot=snapshot,
                stored=stored,
            )
        )

    def durable(self, node: int, term: int, vote: int = 0, stored: tuple[int, int] = (0, 0)) -> None:
        self.add(node, "durable", term=term, vote=vote, stored=stored)

    def elect(
        self, node: int, voter: int, term: int, stored: tuple[int, int] = (0, 0), *, commit: int = 0
    ) -> None:
        """*node* stands and *voter* votes; both have synced."""
        self.add(node, term=term, vote=node, role="candidate", commit=commit)
        self.durable(node, term, node, stored)
        self.add(voter, term=term, vote=node)
        self.durable(voter, term, node)

    def verdict(self) -> Conformance:
        return check_trace(self.steps, voters=(1, 2, 3))


def lead(script: Script) -> Script:
    """Server 1 leads term 1 and has written entry 1; servers 1 and 2 hold it durably."""
    script.elect(1, 2, 1)
    script.add(1, term=1, vote=1, role="leader", log=(1, [1]))
    script.durable(1, 1, 1, (1, 1))
    script.add(2, term=1, vote=1, log=(1, [1]))
    script.durable(2, 1, 1, (1, 1))
    return script


def assert_refused(script: Script, sentence: str) -> None:
    refusal = script.verdict().refusal
    assert refusal is not None
    assert refusal.number == len(script.steps), "an earlier step was refused"
    assert sentence in refusal.text(), refusal.text()


def test_an_election_a_write_and_a_restart_are_allowed() -> None:
    script = lead(Script())
    script.add(1, term=1, vote=1, role="leader", commit=1)
    script.add(2, term=1, vote=1, commit=1)
    script.add(1, "boot", term=1, vote=1, log=(1, [1]), snapshot=(0, 0))
    script.elect(2, 3, 2, (1, 1), commit=1)
    script.add(2, term=2, vote=2, role="leader", commit=1, log=(2, [2]))
    verdict = script.verdict()
    assert verdict.refusal is None
    assert verdict.committed == 1
    assert verdict.actions["become_leader"] == 2 and verdict.actions["restart"] == 1


def test_an_unsynced_entry_may_be_lost_in_a_restart() -> None:
    script = Script()
    script.elect(1, 2, 1)
    script.add(1, term=1, vote=1, role="leader", log=(1, [1, 1]))
    script.durable(1, 1, 1, (1, 1))
    script.add(1, "boot", term=1, vote=1, log=(1, [1]), snapshot=(0, 0))
    assert script.verdict().refusal is None


def test_a_durable_entry_may_not() -> None:
    script = lead(Script())
    script.add(2, "boot", term=1, vote=1, snapshot=(0, 0))
    assert_refused(script, "1 entries were durable, of which it has 0")


def test_a_vote_that_a_restart_forgets_is_refused() -> None:
    script = Script()
    script.elect(1, 2, 1)
    script.add(2, "boot", term=1, vote=0, snapshot=(0, 0))
    assert_refused(script, "its vote for n1 was durable, and it has forgotten it")


def test_two_votes_in_a_term_are_refused() -> None:
    script = Script()
    script.elect(1, 2, 1)
    script.add(3, term=1, vote=3, role="candidate")
    script.durable(3, 1, 3)
    script.add(2, term=1, vote=3)
    assert_refused(script, "it votes twice in term 1: for n1, then n3")


def test_a_term_that_nobody_can_have_told_is_refused() -> None:
    script = lead(Script())
    script.add(3, term=3, vote=3, role="candidate")
    assert_refused(script, "nobody had durably reached term 2")


def test_a_vote_for_somebody_behind_is_refused() -> None:
    script = lead(Script())
    script.add(3, term=1)
    script.durable(3, 1)
    script.add(3, term=2, vote=3, role="candidate")
    script.durable(3, 2, 3)
    script.add(2, term=2, vote=3)
    assert_refused(script, "ends with term 0, index 0: behind its own")


def test_a_leader_without_votes_is_refused() -> None:
    script = Script()
    script.add(1, term=1, vote=1, role="candidate")
    script.durable(1, 1, 1)
    script.add(2, term=1, vote=1)
    script.add(1, term=1, vote=1, role="leader")
    assert_refused(script, "without the durable votes of a quorum (it has: n1)")


def test_a_commit_that_is_not_held_durably_is_refused() -> None:
    script = Script()
    script.elect(1, 2, 1)
    script.add(1, term=1, vote=1, role="leader", log=(1, [1]))
    script.add(2, term=1, vote=1, log=(1, [1]))
    script.durable(2, 1, 1, (1, 1))
    script.add(1, term=1, vote=1, role="leader", commit=1)
    assert_refused(script, "it commits index 1, which only n2 durably holds")


def test_the_commit_of_an_older_terms_entry_is_refused() -> None:
    script = lead(Script())
    script.elect(2, 3, 2, (1, 1))
    script.add(2, term=2, vote=2, role="leader")
    script.add(3, term=2, vote=2, log=(1, [1]))
    script.durable(3, 2, 2, (1, 1))
    script.add(2, term=2, vote=2, role="leader", commit=1)
    assert_refused(script, "it commits index 1 of term 1 while it leads term 2 (§5.4.2)")


def test_a_truncation_without_a_conflict_is_refused() -> None:
    script = lead(Script())
    script.add(2, term=1, vote=1, log=(1, []))
    assert_refused(script, "from index 1 on its log is truncated, and nothing that conflicts with it came")


def test_the_truncation_of_a_committed_entry_is_refused() -> None:
    script = lead(Script())
    script.add(1, term=1, vote=1, role="leader", commit=1)
    script.add(2, term=1, vote=1, commit=1)
    script.add(2, term=1, vote=1, commit=1, log=(1, []))
    assert_refused(script, "it drops index 1, which it knew to be committed")


def test_an_entry_that_no_leader_made_is_refused() -> None:
    script = lead(Script())
    script.add(2, term=1, vote=1, log=(2, [1]))
    assert_refused(script, "index 2 of term 1 is not what a leader of that term made")


def test_a_leader_that_rewrites_its_log_is_refused() -> None:
    script = lead(Script())
    script.steps.append(
        Step(
            node=1,
            event="change",
            term=1,
            voted_for=1,
            role="leader",
            commit=0,
            log=Change(first=1, entries=((1, "x"),)),
        )
    )
    assert_refused(script, "is rewritten by a leader")


def test_a_commit_index_that_falls_is_refused() -> None:
    script = lead(Script())
    script.add(1, term=1, vote=1, role="leader", commit=1)
    script.add(1, term=1, vote=1, role="leader", commit=0)
    assert_refused(script, "its commit index falls from 1")


def test_a_voters_change_without_a_joint_membership_is_refused() -> None:
    script = lead(Script())
    script.add(1, term=1, vote=1, role="leader", commit=1)
    script.steps.append(
        Step(
            node=1,
            event="change",
            term=1,
            voted_for=1,
            role="leader",
            commit=1,
            log=Change(first=2, entries=((1, "m", ((1, 2), ())),)),
        )
    )
    assert_refused(script, "it changes the voters without a joint membership")


def test_a_snapshot_of_what_is_not_committed_is_refused() -> None:
    script = lead(Script())
    script.add(3, term=1, commit=1, snapshot=(1, 1))
    assert_refused(script, "is of something that is not committed")


def test_a_trace_is_read_as_it_was_written() -> None:
    steps = lead(Script()).steps
    assert list(decode_trace([encode_step(step) for step in steps])) == steps
    assert encode_step(steps[-1]) == (
        b'{"node":2,"event":"durable","term":1,"voted_for":1,"role":"follower","commit":0,"stored":[1,1]}'
    )


@pytest.mark.parametrize("line", [b"{}", b"[1]", b'{"node":1,"event":"walk"}', b"{"])
def test_a_line_that_is_no_step_is_refused(line: bytes) -> None:
    with pytest.raises(DecodeError, match="line 2 of the trace"):
        list(decode_trace([b"", line]))


@pytest.mark.parametrize("entry", [(1,), ("1", "v"), (1, "v", ((1,), (2,), (3,)))])
def test_an_entry_of_another_shape_is_refused(entry: tuple[object, ...]) -> None:
    step = Step(
        node=1,
        event="change",
        term=0,
        voted_for=0,
        role="follower",
        commit=0,
        log=Change(first=1, entries=(entry,)),
    )
    with pytest.raises(DecodeError, match="an entry of a trace is"):
        check_trace([step], voters=(1,))


def test_a_gap_is_refused() -> None:
    step = Step(node=1, event="change", term=0, voted_for=0, role="follower", commit=0, log=Change(first=5))
    with pytest.raises(DecodeError, match="leaves a gap"):
        check_trace([step], voters=(1,))


def test_a_server_that_never_voted_restarts_without_a_vote() -> None:
    script = lead(Script())
    script.add(3, term=1)
    script.durable(3, 1)
    script.add(3, "boot", term=1, snapshot=(0, 0))
    assert script.verdict().refusal is None


def test_a_durable_vote_that_is_overwritten_is_refused() -> None:
    script = Script()
    script.elect(1, 2, 1)
    script.durable(2, 1, 3)
    assert_refused(script, "its vote in term 1 for n1 was overwritten")


def test_a_copy_in_memory_does_not_count_for_a_commit() -> None:
    script = Script()
    script.elect(1, 2, 1)
    script.add(1, term=1, vote=1, role="leader", log=(1, [1]))
    script.durable(1, 1, 1, (1, 1))
    script.add(2, term=1, vote=1, log=(1, [1]))
    script.add(1, term=1, vote=1, role="leader", commit=1)
    assert_refused(script, "it commits index 1, which only n1 durably holds")


def test_a_sync_of_what_was_replaced_meanwhile_makes_nothing_durable() -> None:
    """Of five, server 3 has written entry 1 of term 1, then that of term 2 in its place, when the first sync ends."""
    script = Script()
    for node in (4, 5):
        script.add(node, "boot", snapshot=(0, 0))
    for candidate, voters, term in ((1, (2, 4), 1), (2, (4, 5), 2)):
        script.elect(candidate, voters[0], term)
        script.add(voters[1], term=term, vote=candidate)
        script.durable(voters[1], term, candidate)
        script.add(candidate, term=term, vote=candidate, role="leader", log=(1, [term]))
        script.durable(candidate, term, candidate, (term, 1))
        script.add(3, term=term, log=(1, [term]))
    script.add(4, term=2, vote=2, log=(1, [2]))
    script.durable(4, 2, 2, (2, 1))
    script.durable(3, 2, 0, (1, 1))
    commit = {"term": 2, "vote": 2, "role": "leader", "commit": 1}
    script.add(2, **commit)  # type: ignore[arg-type]
    refusal = check_trace(script.steps, voters=range(1, 6)).refusal
    assert refusal is not None and "it commits index 1, which only n2, n4 durably holds" in refusal.text()
    script.steps[-1:] = []
    script.durable(3, 2, 0, (2, 1))
    script.add(2, **commit)  # type: ignore[arg-type]
    assert check_trace(script.steps, voters=range(1, 6)).refusal is None


def test_a_commit_index_that_no_leader_knew_is_refused() -> None:
    script = lead(Script())
    script.add(2, term=1, vote=1, commit=1)
    assert_refused(script, "it takes index 1 for committed, which no leader that it may have heard of knew")


@pytest.mark.parametrize("role", ["candidate", "leader"])
def test_a_role_that_nothing_gives_is_refused(role: Role) -> None:
    script = lead(Script())
    script.add(2, term=1, vote=1, role=role)
    assert_refused(
        script, f"nothing makes it {role} of term 1" if role == "candidate" else "n1 leads term 1 already"
    )


@pytest.mark.parametrize("is_hasty", [False, True])
def test_a_joint_membership_is_left_once_it_has_committed(is_hasty: bool) -> None:
    script = lead(Script())
    script.add(1, term=1, vote=1, role="leader", commit=1)

    def configured(index: int, outgoing: tuple[int, ...], *, commit: int) -> None:
        change = Change(first=index, entries=((1, "m", ((1, 2), outgoing)),))
        script.steps.append(
            Step(node=1, event="change", term=1, voted_for=1, role="leader", commit=commit, log=change)
        )
        script.durable(1, 1, 1, (1, index))
        script.steps.append(
            Step(node=2, event="change", term=1, voted_for=1, role="follower", commit=commit, log=change)
        )
        script.durable(2, 1, 1, (1, index))

    configured(2, (1, 2, 3), commit=1)
    if not is_hasty:
        script.add(1, term=1, vote=1, role="leader", commit=2)
    configured(3, (), commit=1 if is_hasty else 2)
    verdict = script.verdict()
    if is_hasty:
        assert verdict.refusal is not None and verdict.refusal.number == len(script.steps) - 3
        assert "it leaves the joint membership before that has committed" in verdict.refusal.text()
        return
    assert verdict.refusal is None, verdict.refusal.text()
    assert verdict.actions["begin_change"] == verdict.actions["leave_joint"] == 1
