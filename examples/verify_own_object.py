"""Is my own object linearizable? A model in ten lines, a history, and why it is not.

python examples/verify_own_object.py
"""

from troth.verify.check import check
from troth.verify.history import Value
from troth.verify.models import ILLEGAL, Call, Model
from troth.verify.recorder import Recorder
from troth.verify.report import html


class Tickets(Model):
    """Sells numbers: take -> the next one; peek -> the last one sold."""

    name = "tickets"

    def init(self) -> Value:
        return 0

    def step(self, state: Value, call: Call) -> Value:
        assert isinstance(state, int)
        if call.f == "take":
            return state + 1 if not call.known or call.result == state + 1 else ILLEGAL
        return state if not call.known or call.result == state else ILLEGAL


# Record what clients saw: who asked for what, and what the answer was. Times are optional.
recorder = Recorder()
for process, f, answer in ((0, "take", 1), (1, "take", 2), (2, "peek", 1), (0, "take", 3)):
    recorder.invoke(process, f)
    recorder.ok(process, value=answer)

verdict = check(recorder.history(), model="linearizable", object=Tickets())
print(verdict.text())
assert not verdict
assert verdict.counterexample is not None and verdict.counterexample.operation == 2

# One of two takes never came back: then the other's answer may be 2, and the checker finds an order.
recorder = Recorder()
recorder.invoke(0, "take")
recorder.invoke(1, "take")
recorder.ok(1, value=2)
recorder.info(0, error="timed out")
verdict = check(recorder.history(), object=Tickets())
print(verdict.text())
assert verdict and verdict.witness == (0, 1)
print(f"as a page: {len(html(verdict, object=Tickets())):,} bytes, needs nothing else")
