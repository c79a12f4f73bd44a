"""What Raft allows to happen, one function for each action of the paper.

Each takes a state and says which state follows, or None when its guard does not hold. Nothing here chooses: which
action happens, when, and with which arguments is up to the explorer, or was up to the real system whose trace is
checked. The predicates (`is_up_to_date`, `may_vote`, `may_commit`, ...) are the rules that make Raft safe; a test may
replace one by a wrong one and see which property breaks.
"""

from collections.abc import Hashable

from troth.verify.specification.state import (
    CANDIDATE,
    FOLLOWER,
    LEADER,
    NOBODY,
    Ack,
    Committed,
    Config,
    Entry,
    Grant,
    Log,
    Reign,
    Request,
    Said,
    Server,
    Stable,
    State,
    agreeing,
    last_of,
)

# ---- the rules -------------------------------------------------------------------------------------------------


def is_up_to_date(request: Request, log: Log) -> bool:
    """§5.4.1: the later last term wins, then the longer log."""
    return (request.last_term, request.last_index) >= last_of(log)


def may_vote(voter: Server, request: Request) -> bool:
    """§5.2: one vote a term, first come first served."""
    return voter.voted_for in (NOBODY, request.candidate)


def has_won(state: State, node: int) -> bool:
    """§5.2, §6: a quorum of every set in the candidate's configuration has voted for it."""
    server = state.server(node)
    return state.config_of(server.log).is_quorum(votes_for(state, node))


def votes_for(state: State, node: int) -> set[int]:
    """Who has durably voted for *node* in its present term."""
    term = state.server(node).term
    return {
        said.voter
        for said in state.sent
        if isinstance(said, Grant) and said.term == term and said.candidate == node
    }


def may_commit(state: State, leader: int, index: int) -> bool:
    """§5.4.2: a quorum holds it durably, and it is of the leader's own term (figure 8)."""
    server = state.server(leader)
    return server.log[index - 1].term == server.term and is_held(state, leader, index)


def is_held(state: State, leader: int, index: int) -> bool:
    """Whether a quorum has acknowledged to *leader* that it durably holds *index*."""
    return state.config_of(state.server(leader).log).is_quorum(holders_of(state, leader, index))


def holders_of(state: State, leader: int, index: int) -> set[int]:
    """Who has acknowledged *index* to *leader* in its present term."""
    term = state.server(leader).term
    return {
        said.follower for said in state.sent if isinstance(said, Ack) and said.term == term and said.match >= index
    }


def may_stand(state: State, node: int) -> bool:
    """A voter of any configuration that may be the newest committed one: the one in force at its commit index, or a
    later one in its log (thesis §4.2.2)."""
    server = state.server(node)
    known = state.config_of(server.log[: server.commit])
    later = (entry.value for entry in server.log[server.commit :] if isinstance(entry.value, Config))
    return known.has_voter(node) or any(config.has_voter(node) for config in later)


def may_change(state: State, leader: int) -> bool:
    """§6 and Ongaro 2015: one change at a time, and not before an entry of the own term has committed."""
    server = state.server(leader)
    known = server.log[: server.commit]
    current = state.config_of(server.log)
    return (
        bool(known)
        and known[-1].term == server.term
        and current == state.config_of(known)
        and not current.outgoing
    )


# ---- elections ------------------------------------------------------------------------------------------------


def timeout(state: State, node: int) -> State | None:
    """§5.2: raise the term, vote for oneself, ask for votes (also after TimeoutNow, thesis §3.10)."""
    server = state.server(node)
    if server.role == LEADER or not may_stand(state, node):
        return None
    term = server.term + 1
    owed = (Grant(term, node, node), Request(term, node, *last_of(server.log)))
    return state.with_server(
        node, server._replace(term=term, voted_for=node, role=CANDIDATE, owed=(*server.owed, *owed))
    )


def learn_term(state: State, node: int, term: int) -> State | None:
    """§5.1: a message of a newer term makes anybody a follower in it."""
    server = state.server(node)
    if term <= server.term or not any(other.stable.term >= term for other in state.servers):
        return None
    return state.with_server(node, server._replace(term=term, voted_for=NOBODY, role=FOLLOWER))


def handle_vote_request(state: State, node: int, request: Request) -> State | None:
    """§5.2, §5.4.1: vote for the candidate."""
    server = state.server(node)
    if request not in state.sent or request.term != server.term or server.role == LEADER:
        return None
    if not may_vote(server, request) or not is_up_to_date(request, server.log):
        return None
    grant = Grant(request.term, node, request.candidate)
    return state.with_server(node, server._replace(voted_for=request.candidate, owed=(*server.owed, grant)))


def become_leader(state: State, node: int) -> State | None:
    """§5.2: a candidate with the votes of a quorum leads its term."""
    server = state.server(node)
    if server.role != CANDIDATE or not has_won(state, node):
        return None
    reign = Reign(server.term, node, server.log, server.commit)
    owed = (*server.owed, Ack(server.term, node, len(server.log)))
    led = state.with_server(node, server._replace(role=LEADER, owed=owed))
    return led._replace(reigns=tuple(sorted((*state.reigns, reign))) if state.reigns else (reign,))


def step_down(state: State, node: int) -> State | None:
    """Give up leading or standing: always allowed (check-quorum, thesis §6.2; a removed leader, §6)."""
    server = state.server(node)
    return None if server.role == FOLLOWER else state.with_server(node, server._replace(role=FOLLOWER))


# ---- replication ----------------------------------------------------------------------------------------------


def append(state: State, leader: int, value: Hashable) -> State | None:
    """§5.3: the leader takes a command, or a configuration under which the same servers decide as before."""
    if isinstance(value, Config) and value != state.config_of(state.server(leader).log):
        return None
    return _append(state, leader, value)


def _append(state: State, leader: int, value: Hashable) -> State | None:
    server = state.server(leader)
    if server.role != LEADER:
        return None
    log = (*server.log, Entry(server.term, leader, value))
    owed = (*server.owed, Ack(server.term, leader, len(log)))
    return _with_reign(state.with_server(leader, server._replace(log=log, owed=owed)), leader)


def replicate(state: State, node: int, term: int, upto: int) -> State | None:
    """§5.3, figure 2: an append of *term*'s leader arrives whose last entry is *upto*.

    It begins where the two logs agree, or before; figure 2's consistency check lets no other through. What conflicts
    with it is truncated, together with all that follows; what merely follows stays.
    """
    server, reign = state.server(node), state.reign(term)
    if reign is None or server.term != term or server.role == LEADER or upto > len(reign.log):
        return None
    same = agreeing(server.log, reign.log)
    log, stable = server.log, server.stable
    if upto > same:
        log = reign.log[:upto]
        stable = stable._replace(length=min(stable.length, same))
    owed = (*server.owed, Ack(term, node, upto))
    return state.with_server(node, server._replace(role=FOLLOWER, log=log, stable=stable, owed=owed))


def advance_commit(state: State, leader: int, index: int) -> State | None:
    """§5.3, §5.4.2: the leader learns that *index*, and all before it, is committed."""
    server = state.server(leader)
    if (
        server.role != LEADER
        or not server.commit < index <= len(server.log)
        or not may_commit(state, leader, index)
    ):
        return None
    new = tuple(Committed(entry, server.term) for entry in server.log[len(state.committed) : index])
    after = state.with_server(leader, server._replace(commit=index))
    return _with_reign(after._replace(committed=(*state.committed, *new)), leader)


def learn_commit(state: State, node: int, term: int, index: int) -> State | None:
    """§5.3: a follower hears from *term*'s leader that *index* is committed, and holds that very entry."""
    server, reign = state.server(node), state.reign(term)
    if reign is None or server.term != term or server.role == LEADER:
        return None
    if not server.commit < index <= min(reign.commit, len(server.log)):
        return None
    if server.log[index - 1] != reign.log[index - 1]:
        return None
    return state.with_server(node, server._replace(role=FOLLOWER, commit=index))


def install_snapshot(state: State, node: int, term: int, index: int) -> State | None:
    """§7: *term*'s leader sends its state after *index*, which is committed; it stands for the log up to there."""
    server, reign = state.server(node), state.reign(term)
    if reign is None or server.term != term or server.role == LEADER:
        return None
    if not server.commit < index <= reign.commit or server.log[:index] == reign.log[:index]:
        return None
    owed = (*server.owed, Ack(term, node, index))
    stable = server.stable._replace(length=index)
    return state.with_server(
        node, server._replace(role=FOLLOWER, log=reign.log[:index], commit=index, stable=stable, owed=owed)
    )


# ---- membership -----------------------------------------------------------------------------------------------


def begin_change(state: State, leader: int, voters: tuple[int, ...]) -> State | None:
    """§6: the leader appends the joint configuration."""
    server = state.server(leader)
    if server.role != LEADER or not voters or not may_change(state, leader):
        return None
    current = state.config_of(server.log)
    if voters == current.voters:
        return None
    after = _append(state, leader, Config(voters, current.voters))
    return None if after is None else after._replace(changes=state.changes + 1)


def leave_joint(state: State, leader: int) -> State | None:
    """§6: the joint configuration has committed; the new voters may decide alone."""
    server = state.server(leader)
    current = state.config_of(server.log)
    if server.role != LEADER or not current.outgoing or current != state.config_of(server.log[: server.commit]):
        return None
    return _append(state, leader, Config(current.voters))


# ---- disk -----------------------------------------------------------------------------------------------------


def persist(state: State, node: int, stable: Stable | None = None) -> State:
    """A sync ends: what was written is durable, or as much of it as *stable* says; what is owed for that leaves."""
    server = state.server(node)
    if stable is None:
        stable = Stable(server.term, server.voted_for, len(server.log))
    due = tuple(said for said in server.owed if _is_due(said, stable))
    owed = tuple(said for said in server.owed if not _is_due(said, stable))
    after = state.with_server(node, server._replace(stable=stable, owed=owed))
    return after._replace(sent=_heard(state.sent, due)) if due else after


def _is_due(said: Said, stable: Stable) -> bool:
    if isinstance(said, Ack):
        return said.term <= stable.term and said.match <= stable.length
    if isinstance(said, Request):
        return said.term <= stable.term and said.last_index <= stable.length
    return said.term <= stable.term


def _heard(sent: frozenset[Said], due: tuple[Said, ...]) -> frozenset[Said]:
    """*sent* with *due*; of acknowledgements only the highest is kept, it says the others too."""
    for said in due:
        if isinstance(said, Ack):
            others = [
                old
                for old in sent
                if isinstance(old, Ack) and old.term == said.term and old.follower == said.follower
            ]
            if any(old.match >= said.match for old in others):
                continue
            sent = sent.difference(others)
        sent |= {said}
    return sent


def restart(state: State, node: int, *, term: int, voted_for: int, log: Log, commit: int = 0) -> State | None:
    """A process ends and starts again with what its disk holds: at least what was durable, at most what was written.

    A write that was never synced may have survived, also one that a later write would have replaced. *commit* is
    what a snapshot on the disk proves.
    """
    server, stable = state.server(node), state.server(node).stable
    if not stable.term <= term <= server.term:
        return None
    if term == stable.term and stable.voted_for and voted_for != stable.voted_for:
        return None
    if term == server.term and voted_for not in (NOBODY, server.voted_for):
        return None
    if log[: stable.length] != server.log[: stable.length] or not _has_origin(state, server, log):
        return None
    if commit > min(len(log), len(state.committed)):
        return None
    again = Server(
        term=term, voted_for=voted_for, log=log, commit=commit, stable=Stable(term, voted_for, len(log))
    )
    return state.with_server(node, again)._replace(restarts=state.restarts + 1)


def _has_origin(state: State, server: Server, log: Log) -> bool:
    """Whether *log* was ever that of *server*: a piece of what it holds, or of what some leader had."""
    return log == server.log[: len(log)] or any(reign.log[: len(log)] == log for reign in state.reigns)


def _with_reign(state: State, leader: int) -> State:
    """Keep the reign of *leader* equal to its log and commit index."""
    server = state.server(leader)
    return state._replace(
        reigns=tuple(
            Reign(reign.term, leader, server.log, server.commit)
            if (reign.term, reign.leader) == (server.term, leader)
            else reign
            for reign in state.reigns
        )
    )
