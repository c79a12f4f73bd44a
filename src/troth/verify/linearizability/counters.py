"""Counters: a read that no order explains, found without search.

Adds that returned before a read was invoked count in it; those that were invoked before it returned may count. So what
was read lies between two sums, whatever the order. That a read lies between them proves nothing: `generic` decides.
"""

from collections.abc import Sequence

from troth.verify.models import Call, Counter


def refuted(model: Counter, calls: Sequence[Call | None], timeline: Sequence[int]) -> tuple[int, str] | None:
    """(place in the timeline, why) of the first read to return that cannot be right; None if every read may be."""
    # Sums of what was added, and of what was taken off: by invoked operations, and by those that returned.
    raised = lowered = raised_surely = lowered_surely = 0
    asked: dict[int, tuple[int, int]] = {}
    for place, code in enumerate(timeline):
        index = code >> 1
        call = calls[index]
        if call is None:
            continue
        if call.f == "read":
            if not code & 1:
                asked[index] = raised_surely, lowered_surely
                continue
            low, high = model.initial + asked[index][0] + lowered, model.initial + asked[index][1] + raised
            if isinstance(call.result, int) and not low <= call.result <= high:
                return place, f"when it was read the counter was between {low} and {high}"
            continue
        after = model.step(0, call)
        amount = after if isinstance(after, int) else 0
        if code & 1:
            raised_surely += max(amount, 0)
            lowered_surely += min(amount, 0)
        else:
            raised += max(amount, 0)
            lowered += min(amount, 0)
    return None
