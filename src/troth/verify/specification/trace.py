"""What a real server is seen to do: one `Step` for each change that anybody could tell from outside, as JSON lines.

::

    {"node":1,"event":"boot","term":2,"voted_for":1,"role":"follower","commit":0,"snapshot":[0,0],
     "log":{"from":1,"entries":[[1,"5f0c"],[2,"5f0d"]]}}
    {"node":1,"event":"change","term":3,"voted_for":1,"role":"candidate","commit":0}
    {"node":1,"event":"durable","term":3,"voted_for":1,"role":"candidate","commit":0,"stored":[2,2]}
    {"node":1,"event":"change","term":3,"voted_for":1,"role":"leader","commit":0,
     "log":{"from":3,"entries":[[3,"00ff"]]}}

========  ===========================================================================================
event     "boot": the process has started; "change": something below has changed; "durable": a sync has
          ended, `term` and `voted_for` are those on the disk, `stored` is the last entry there
term, voted_for, role, commit    as they are after the step; role is follower, candidate or leader
log       entries at and after index `from` are now these, each [term, value] or [term, value, config];
          config is [voters, outgoing]. Left out when the log has not changed.
snapshot  [term, index]: at boot, where the log begins; at a change, a snapshot that was installed
at        when, in any unit; only told
========  ===========================================================================================

The lines of a cluster stand in one order in which no effect comes before its cause: that in which they happened,
by one clock (a simulator's, one machine's). A step must be written down before anybody else can notice it.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from troth.errors import DecodeError
from troth.verify.specification.state import Config

S = TypeVar("S", bound=Struct)


class Change(Struct, frozen=True, kw_only=True, rename={"first": "from"}):
    """The log from index `first` on."""

    first: int
    entries: tuple[tuple[object, ...], ...] = ()


class Step(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line. See the module."""

    node: int
    event: Literal["boot", "change", "durable"]
    term: int
    voted_for: int
    role: Literal["follower", "candidate", "leader"]
    commit: int
    log: Change | None = None
    snapshot: tuple[int, int] | None = None
    stored: tuple[int, int] | None = None
    at: float | None = None

    def words(self) -> str:
        """For people."""
        parts = [f"n{self.node} {self.event}: {self.role} of term {self.term}, vote {self.voted_for or '-'}"]
        parts.append(f"commit {self.commit}")
        if self.log is not None:
            terms = " ".join(str(entry[0]) for entry in self.log.entries[:8])
            more = " ..." if len(self.log.entries) > 8 else ""
            parts.append(f"log from {self.log.first} is [{terms}{more}] ({len(self.log.entries)} entries)")
        if self.snapshot is not None:
            parts.append(f"snapshot up to {self.snapshot[1]} of term {self.snapshot[0]}")
        if self.stored is not None:
            parts.append(f"durable up to {self.stored[1]} of term {self.stored[0]}")
        return ("" if self.at is None else f"[{self.at}] ") + ", ".join(parts)


_encode = msgspec.json.Encoder().encode


def encode_step(step: Struct) -> bytes:
    """One line, without the line feed."""
    return _encode(step)


def decode_trace(lines: Iterable[bytes]) -> Iterator[Step]:
    """Read a trace of Raft; see `decode_steps`."""
    return decode_steps(lines, Step)


def decode_steps(lines: Iterable[bytes], kind: type[S]) -> Iterator[S]:
    """Read a trace whose lines are of one *kind*; blank lines are skipped.

    Raises:
        DecodeError: a line is not a step.
    """
    decode = msgspec.json.Decoder(kind).decode
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise DecodeError(f"line {number} of the trace: {error}") from None


def value_of(entry: tuple[object, ...]) -> object:
    """The value of an entry of a `Change` as the specification has it: a `Config`, or what tells commands apart.

    Raises:
        DecodeError: it is not [term, value] or [term, value, [voters, outgoing]].
    """
    match entry:
        case (int(), str() | int() as value):
            return value
        case (int(), _, (voters, outgoing)) if isinstance(voters, list | tuple) and isinstance(
            outgoing, list | tuple
        ):
            return Config(tuple(sorted(voters)), tuple(sorted(outgoing)))
        case _:
            raise DecodeError(f"an entry of a trace is [term, value] or [term, value, config], not {entry!r:.80}")
