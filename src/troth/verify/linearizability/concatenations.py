"""Keys to which one text is appended, or put, more than once: which operation each piece of a value read came from.

A value read is a row of texts: what was put (or the first append to nothing), then appends. Where texts repeat, a row
does not say which operations it is made of, but their times mostly do. This makes a guess:

1.  Reads, in the order of their returns, are laid out as *rows*: a row is what one overwrite began, or the initial
    value. A read belongs to the latest row that begins as it does, or goes on from it, unless its time forbids that:
    a longer value of the row returned before the read began, or another row had taken over before.
2.  A piece of a row came to be between two instants: after the last read that did not have it was invoked, and before
    the first read that has it returned. Of the operations with that text, it is taken to be the one that was open then
    and returned first.

A guess that fits, as `chains` decides, proves a legal history, whoever guessed it. One that does not proves nothing.
"""

from collections.abc import Sequence
from typing import TypeAlias

from troth.verify.history import FOREVER, Operation, Value
from troth.verify.linearizability.keys import Key

Text: TypeAlias = str | tuple[Value, ...]


class _Row:
    """What one overwrite began: pieces in their order, and what reads say about when they came."""

    __slots__ = ("invoked", "pieces", "reads", "root", "sizes", "until", "value")

    def __init__(self, root: Operation | None, value: Text) -> None:
        self.root = root
        """None is the initial value."""
        self.value = value
        """The longest value read of it."""
        self.pieces: list[Text] = []
        """The texts that were appended."""
        self.sizes = {len(value): 0}
        """Length of a value -> how many pieces it has."""
        self.until: list[int] = []
        """By piece: the first return of a read that has it."""
        self.invoked: list[int] = [-1]
        """By number of pieces: the last invocation of a read that has so many."""
        self.reads: list[tuple[Operation, int]] = []

    def room_for(self, read: Operation, value: Text) -> bool:
        """Whether *read* may have seen this row: it goes on from it, or saw it before it went on."""
        size = len(value)
        if size > len(self.value):
            return not self.value or value[: len(self.value)] == self.value
        count = self.sizes.get(size)
        return (
            count is not None
            and (not size or self.value[:size] == value)
            and (count == len(self.until) or read.invoked < self.until[count])
        )


def told_apart(key: Key) -> Key | None:
    """*key* with the index of an operation in place of each text, every read tied to some; None: no such guess."""
    if key.initial not in (None, "") or key.changed:
        return None
    if not all(issubclass(kind, str | tuple) for kind in set(map(type, key.written))):
        return None
    repeated: dict[Value, list[Operation]] = {}
    for text, op in key.again:
        if text in key.written:
            repeated.setdefault(text, [key.written[text]]).append(op)
        elif text == key.initial:
            repeated.setdefault("", []).append(op)
        else:
            return None
    rows = _Rows(key, repeated)
    if 0 in rows.sizes or not all(rows.lay_out(read) for read in sorted(key.reads, key=_completed)):
        return None
    tied = _tied(rows.rows, key.written, repeated)
    return None if tied is None else _labelled(key, rows.rows, tied)


class _Rows:
    """Step 1: the rows that reads saw."""

    def __init__(self, key: Key, repeated: dict[Value, list[Operation]]) -> None:
        self.written, self.repeated, self.absent = key.written, repeated, key.initial
        self.sizes = sorted({len(text) for text in key.written if isinstance(text, str | tuple)}, reverse=True)
        self.initial = _Row(None, "")
        self.rows = [self.initial]
        self.began: dict[Text, list[_Row]] = {"": [self.initial]}
        """By first text, "" where that was appended to nothing: rows, in the order in which they were found."""
        self.roots: set[int] = set()
        """Operations that began a row."""
        self.latest, self.taken_over = self.initial, -1
        """The row found last, and the return of the first read that saw it."""

    def lay_out(self, read: Operation) -> bool:
        """Find the row that *read* saw; False when there is none."""
        value, row = read.result, self.latest
        known = row.value
        if value == known and row.root is not None:
            pass
        elif not value:
            if value != self.absent:
                return False
            value = ""
            found = self._row(read, value, "") or self._begun(read, value, "")
            if found is None:
                return False
            row = found
        elif not isinstance(value, str | tuple):
            return False
        elif known and value[: len(known)] == known:
            if not self._extended(row, read, value):
                return False
        else:
            head = self._piece(value, 0)
            if head is None:
                return False
            found = self._row(read, value, head) or self._begun(read, value, head)
            if found is None:
                return False
            row = found
        count = row.sizes[len(value)]
        if row.invoked[count] < read.invoked:
            row.invoked[count] = read.invoked
        row.reads.append((read, count))
        return True

    def _row(self, read: Operation, value: Text, head: Text) -> _Row | None:
        for row in reversed(self.began.get(head, ())):
            if (
                row is not self.latest
                and self.taken_over <= read.invoked
                and self._root(read, head, after=self.taken_over) is not None
            ):
                continue
            if not head and not row.pieces:
                # What put nothing since then would have been seen to come in between.
                root = self._root(read, head, after=FOREVER)
                if root is not None and (value or root.returned < read.invoked):
                    continue
            if row.room_for(read, value) and self._extended(row, read, value):
                return row
        return None

    def _begun(self, read: Operation, value: Text, head: Text) -> _Row | None:
        """A new row."""
        root = self._root(read, head, after=max(self.latest.invoked) if head else FOREVER)
        if root is None and head and any(op.f == "append" for op in self._of(head)):
            return self._row(read, value, "") or self._begun(read, value, "")
        if root is None:
            return None
        row = _Row(root, head)
        self.rows.append(row)
        self.roots.add(root.index)
        if not self._extended(row, read, value):
            return None
        self.began.setdefault(head, []).append(row)
        self.latest, self.taken_over = row, read.completed
        return row

    def _root(self, read: Operation, head: Text, *, after: int) -> Operation | None:
        """The overwrite with *head* that returned first of those which were open *after* that place, or else last."""
        best: Operation | None = None
        for op in self._of(head):
            if op.f == "append" or op.invoked >= read.completed or op.index in self.roots:
                continue
            if (
                best is None
                or (op.returned >= after and (best.returned < after or op.returned < best.returned))
                or best.returned < op.returned < after
            ):
                best = op
        return best

    def _of(self, text: Text) -> list[Operation]:
        return self.repeated.get(text) or ([self.written[text]] if text else [])

    def _extended(self, row: _Row, read: Operation, value: Text) -> bool:
        """Append to *row* what *value* has more; False when that cannot be taken apart."""
        offset, size = len(row.value), len(value)
        while offset < size:
            piece = self._piece(value, offset)
            if piece is None:
                return False
            offset += len(piece)
            row.pieces.append(piece)
            row.until.append(read.completed)
            row.invoked.append(-1)
            row.sizes[offset] = len(row.pieces)
            row.value = value[:offset]
        return True

    def _piece(self, value: Text, offset: int) -> Text | None:
        written = self.written
        for size in self.sizes:
            piece = value[offset : offset + size]
            if piece in written:
                return piece
        return None


def _tied(
    rows: Sequence[_Row], written: dict[Value, Operation], repeated: dict[Value, list[Operation]]
) -> list[list[Operation]] | None:
    """Step 2: by row and piece, the operation that appended it."""
    tied: list[list[Operation]] = []
    used: set[int] = set()
    left = {text: sorted(known, key=_returned) for text, known in repeated.items()}
    pieces = 0
    for row in rows:
        made: list[Operation] = []
        tied.append(made)
        pieces += len(row.pieces)
        until: list[int] = []
        after = -1 if row.root is None else row.root.invoked
        for at, piece in enumerate(row.pieces):
            if row.invoked[at] > after:
                after = row.invoked[at]
            choice = left.get(piece)
            if choice is None:
                op = written[piece]
            else:
                until = until or _until(row, written, repeated)
                for op in choice:
                    if (
                        op.f == "append"
                        and op.invoked < until[at]
                        and op.returned > after
                        and op.index not in used
                    ):
                        break
                else:
                    return None
            if op.f != "append":
                return None
            made.append(op)
            used.add(op.index)
            if op.invoked > after:
                after = op.invoked
    return tied if len(used) == pieces else None


def _until(row: _Row, written: dict[Value, Operation], repeated: dict[Value, list[Operation]]) -> list[int]:
    """By piece: what it came before. That is a read that has it, or the return of what follows it for certain."""
    until, last = list(row.until), FOREVER
    for at in range(len(until) - 1, -1, -1):
        last = until[at] = min(until[at], last)
        piece = row.pieces[at]
        if piece not in repeated:
            last = min(last, written[piece].returned)
    return until


def _labelled(original: Key, rows: Sequence[_Row], tied: Sequence[Sequence[Operation]]) -> Key:
    """A key of labels, in which an append is what a cas from the label before it would be."""
    key = Key(None)
    changed, seen = key.changed, key.seen
    first, last = key.first_return, key.last_invoke
    key.written.update((op.index, op) for op in original.written.values())
    key.written.update((op.index, op) for _, op in original.again)
    for row, appended in zip(rows, tied, strict=True):
        before: Value = None if row.root is None else row.root.index
        labels = [before]
        for op in appended:
            changed[before] = before = op.index
            labels.append(before)
        for read, count in row.reads:
            label = seen[read.index] = labels[count]
            done = read.completed
            if label not in first or done < first[label]:
                first[label] = done
            if read.invoked > last.get(label, -1):
                last[label] = read.invoked
        key.reads += [read for read, _ in row.reads]
    return key


def _completed(op: Operation) -> int:
    return op.completed


def _returned(op: Operation) -> int:
    return op.returned
