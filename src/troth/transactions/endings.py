"""What is told of a transaction that has not committed, or not everywhere."""

from collections.abc import Sequence

from troth.core.twophase.records import Heuristic
from troth.errors import Aborted, HeuristicMixed, TransactionInDoubt


def in_doubt(gid: str, why: BaseException | None, *, was_voted_on: bool) -> TransactionInDoubt:
    """Nobody can say now how *gid* ends."""
    asked, retry = "the decision was handed over", ", or retry with the same key"
    if not was_voted_on:  # there was nothing to decide, and no key
        asked, retry = "the only database that it wrote in was told to commit", ""
    return TransactionInDoubt(
        f"{gid}: {asked}, and what came of it is not known{f' ({why})' if why else ''}."
        f" Ask tpc.outcome({gid!r}){retry}",
        gid,
    )


def aborted(gid: str, why: BaseException | None, where: str, untold: Sequence[str]) -> Aborted:
    """Because of *why*, of the participant *where*, if it was one's; *untold* are prepared still."""
    if isinstance(why, Aborted):
        why.gid = why.gid or gid
        return why
    text = f"{gid} is rolled back in every database"
    if untold:
        text = f"{gid} is aborted; {', '.join(untold)} could not be told, and is rolled back by recovery"
    error = Aborted(f"{text}: {where}: {why}" if where else f"{text}: {why}" if why else text, gid, where)
    error.__cause__ = why
    return error


def to_repair(found: Heuristic) -> str:
    """What somebody has finished against the decision, and what to do."""
    return f"{found.gid}: {found.participant} was {found.seen}: repair it, then: troth tx forget {found.gid}"


def mixed(gid: str, against: Sequence[str], untold: Sequence[str]) -> HeuristicMixed:
    """Aborted, and somebody has committed the branches of the participants *against* that."""
    also = f"; {', '.join(untold)} could not be told" if untold else ""
    return HeuristicMixed(
        f"{gid} is aborted, but was committed by hand in {', '.join(against)}{also}: repair it, then:"
        f" troth tx forget {gid}",
        gid,
        against[0],
    )
