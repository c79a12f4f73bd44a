"""Runs a transcript: commands, a line of dashes, and what the cluster then tells.

::

    # a comment
    tick 1 20
    deliver 1>2
    ----
    n1 pre_candidate term=0
    n1 > n2 PreVote 1 last=0/0

Commands (servers by number, counts default to 1)::

    cluster V [learners=V] [others=V] [lease] [disk=T]   begin; V is a list like 1,2,3
    load N term=T log=1,1,2 [vote=V]        a server with this log on its disk; joint(1,2|3,4) is a membership in it
    elect N                 make N the leader and deliver everything
    tick N [COUNT]          let time pass for one server; tick all; run COUNT also delivers after each tick
    deliver [A>B] [KIND]    deliver what is in flight, or only that; A or B may be *
    drop [A>B] [KIND]       lose it;  hold ... keeps it aside, release hands over what is kept, in order
    repeat A>B KIND         hand over a second copy of what is in flight, now
    settle                  deliver until nothing is in flight
    propose N [TEXT]        read N CONTEXT        transfer N [TARGET]      suspect N PEER
    change N add=V learn=V promote=V remove=V
    cut A|B                 cut two groups off from each other (both ways);  cutoff A>B one way;  heal
    crash N; restart N [amnesia]; hang N (its disk syncs no more); sync N; work N (it syncs again)
    compact N [KEEP_FROM]; install A>B           the newest snapshot of A is carried to B
    show N...               state of servers
"""

from collections.abc import Callable
from pathlib import Path

from troth.core.interface import Accepted, Member, Membership, MembershipChange, Refused
from troth.core.raft.state import RaftConfig
from troth.ids import NodeId
from troth.simulate.actor import InFlight, membership_of
from troth.simulate.stage import Stage

RULE = "----"


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)


def options(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words if "=" in word)


def joining(text: str) -> dict[NodeId, Member]:
    return {NodeId(number): Member(f"n{number}") for number in numbers(text)}


class Scenario:
    """One transcript's cluster."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.kept: list[InFlight] = []

    def run(self, block: str) -> str:
        """Do what a block of commands says; what was told meanwhile."""
        self.stage.lines.clear()
        for line in block.splitlines():
            words = line.split("#")[0].split()
            if words:
                self.command(words[0], words[1:])
        told = "\n".join(self.stage.lines) or "nothing"
        self.stage.lines.clear()
        return told

    def command(self, name: str, words: list[str]) -> None:
        stage = self.stage
        say = stage.lines.append
        match name:
            case "cluster":
                given = options(words)
                self.stage = Stage(
                    numbers(words[0]),
                    learners=numbers(given.get("learners", "")),
                    others=numbers(given.get("others", "")),
                    config=RaftConfig(
                        heartbeat_ticks=2,
                        election_timeout_ticks=20,
                        lease_reads="lease" in words,
                        disk_timeout_ticks=int(given.get("disk", "300")),
                    ),
                )
            case "load":
                given = options(words)
                log = [self.item(part) for part in given["log"].split(";") for part in self.split(part)]
                stage.load(int(words[0]), term=int(given["term"]), log=log, voted_for=int(given.get("vote", "0")))
            case "elect":
                stage.elect(int(words[0]))
            case "tick":
                count = int(words[1]) if len(words) > 1 else 1
                stage.tick_all(count) if words[0] == "all" else stage.tick(int(words[0]), count)
            case "run":
                stage.run(int(words[0]))
            case "deliver":
                stage.deliver(self.picked(words))
            case "drop":
                stage.drop(self.picked(words))
            case "hold":
                self.kept += stage.drop(self.picked(words))
            case "repeat":
                for flying in [each for each in stage.in_flight if self.picked(words)(each)]:
                    stage.hand(flying.sender, flying.to, flying.message)
            case "release":
                kept, self.kept = self.kept, []
                for flying in kept:
                    stage.hand(flying.sender, flying.to, flying.message)
            case "settle":
                stage.settle()
            case "propose":
                self.answer(stage.propose(int(words[0]), " ".join(words[1:]).encode()))
            case "read":
                stage.read(int(words[0]), int(words[1]))
            case "transfer":
                self.answer(stage.transfer(int(words[0]), int(words[1]) if len(words) > 1 else 0))
            case "suspect":
                stage.suspect(int(words[0]), int(words[1]))
            case "change":
                given = options(words)
                change = MembershipChange(
                    add_voters=joining(given.get("add", "")),
                    add_learners=joining(given.get("learn", "")),
                    promote=tuple(NodeId(node) for node in numbers(given.get("promote", ""))),
                    remove=tuple(NodeId(node) for node in numbers(given.get("remove", ""))),
                )
                self.answer(stage.change(int(words[0]), change))
            case "cut":
                one, other = (numbers(part) for part in words[0].split("|"))
                stage.cut |= {(NodeId(a), NodeId(b)) for a in one for b in other}
                stage.cut |= {(NodeId(b), NodeId(a)) for a in one for b in other}
            case "cutoff":
                one, other = (numbers(part) for part in words[0].split(">"))
                stage.cut |= {(NodeId(a), NodeId(b)) for a in one for b in other}
            case "heal":
                stage.heal()
            case "crash":
                stage.crash(int(words[0]))
            case "restart":
                stage.restart(int(words[0]), may_vote="amnesia" not in words)
            case "hang":
                stage[int(words[0])].syncs = False
            case "sync":
                stage.sync(int(words[0]))
            case "work":
                stage[int(words[0])].syncs = True
                stage.sync(int(words[0]))
            case "compact":
                meta = stage.compact(int(words[0]), int(words[1]) if len(words) > 1 else 1 << 40)
                say(f"n{words[0]} compacts behind {meta.last.term}/{meta.last.index}")
            case "install":
                source, target = (int(part) for part in words[0].split(">"))
                installed = stage.install(source, target)
                say(f"n{target} {'replaced its state' if installed else 'kept its state'}")
            case "show":
                for word in words:
                    self.show(int(word))
            case _:
                raise ValueError(f"no such command: {name}")

    @staticmethod
    def split(text: str) -> list[str]:
        """Entries of a log; a membership has commas of its own."""
        return [text] if text.startswith(("joint(", "simple(")) else [part for part in text.split(",") if part]

    @staticmethod
    def item(text: str) -> int | Membership:
        if text.startswith("joint("):
            voters, outgoing = text.removeprefix("joint(").removesuffix(")").split("|")
            return membership_of(numbers(voters), outgoing=numbers(outgoing))
        if text.startswith("simple("):
            return membership_of(numbers(text.removeprefix("simple(").removesuffix(")")))
        return int(text)

    @staticmethod
    def picked(words: list[str]) -> Callable[[InFlight], bool]:
        """What ``1>2 AppendEntries`` means; a missing part means any."""
        path = next((word for word in words if ">" in word), "*>*")
        kinds = [word for word in words if ">" not in word]
        sender, to = path.split(">")

        def is_picked(flying: InFlight) -> bool:
            return (
                sender in ("*", str(flying.sender))
                and to in ("*", str(flying.to))
                and (not kinds or type(flying.message).__name__ in kinds)
            )

        return is_picked

    def answer(self, result: Accepted | Refused | None) -> None:
        match result:
            case Accepted():
                self.stage.lines.append(f"accepted as {result.id.term}/{result.id.index}")
            case Refused():
                self.stage.lines.append(f"refused: {result.reason.value} {result.detail}".rstrip())
            case None:
                self.stage.lines.append("begun")

    def show(self, node: int) -> None:
        status = self.stage.status(node)
        voters = ",".join(map(str, status.membership.voters))
        outgoing = ",".join(map(str, status.membership.outgoing))
        line = f"n{node} {status.role.value} term={status.term} vote={status.voted_for} leader={status.leader}"
        line += (
            f" log={status.first_index - 1}+{self.stage.terms(node)} commit={status.commit_index} voters={voters}"
        )
        self.stage.lines.append(line + (f" outgoing={outgoing}" if outgoing else ""))
        for peer, seen in status.progress.items():
            if peer != node:
                self.stage.lines.append(
                    f"    n{peer} {seen.state} match={seen.match} next={seen.next} in_flight={seen.in_flight}"
                )


def blocks(text: str) -> list[tuple[str, str]]:
    """(commands, expected) of a transcript; blocks are parted by an empty line."""
    found: list[tuple[str, str]] = []
    for part in text.strip("\n").split("\n\n"):
        commands, _, expected = part.partition(f"\n{RULE}")
        found.append((commands, expected.strip("\n")))
    return found


def replay(text: str) -> str:
    """The transcript as it comes out today."""
    scenario = Scenario()
    written = []
    for commands, _ in blocks(text):
        if all(line.startswith("#") or not line.strip() for line in commands.splitlines()):
            written.append(commands)
            continue
        written.append(f"{commands}\n{RULE}\n{scenario.run(commands)}")
    return "\n\n".join(written) + "\n"


def transcripts() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.txt"))
