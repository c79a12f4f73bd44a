"""What a check of transactions says: a verdict with anomalies, the models they rule out, and an example of each."""

from collections.abc import Callable, Sequence

from typing_extensions import override

from troth.verify.history import History, counted
from troth.verify.transactions.explain import CycleView
from troth.verify.transactions.svg import cycle_svg
from troth.verify.verdict import Counterexample, Part, Status, Verdict


class TransactionVerdict(Verdict):
    """A verdict on transactions.

    Attributes:
        anomalies: names, the most telling first.
        not_: the weakest models that the anomalies rule out.
        also_not: the stronger models that are ruled out with them.
        views: an example of every anomaly: its transactions, the cycle, why.
    """

    __slots__ = ("also_not", "not_", "views")

    def __init__(
        self,
        status: Status,
        *,
        history: History,
        model: str,
        workload: str,
        reason: str,
        anomalies: Sequence[str],
        views: Sequence[CycleView],
        not_: Sequence[str],
        also_not: Sequence[str],
        part: Part,
        witness: Callable[[], Sequence[int]] | None,
    ) -> None:
        first = views[0] if views and status is Status.ILLEGAL else None
        counterexample = None
        if first is not None:
            counterexample = Counterexample(
                operation=None,
                reason=reason,
                involved=first.transactions,
                cycle=tuple(
                    [
                        f"T{at + 1} = [{node}] {line}"
                        for at, (node, line) in enumerate(zip(first.transactions, first.lines, strict=True))
                    ]
                    + list(first.sentences())
                ),
            )
        super().__init__(
            status,
            history=history,
            model=model,
            object=workload,
            reason=reason,
            parts=(part,),
            counterexample=counterexample,
            witness=witness,
            anomalies=anomalies,
        )
        self.views = tuple(views)
        self.not_ = tuple(not_)
        self.also_not = tuple(also_not)

    def svg(self, at: int = 0) -> str:
        """The example of the *at*-th anomaly as one inline SVG element; "" when there is none."""
        return cycle_svg(self.views[at]) if at < len(self.views) else ""

    @override
    def text(self, *, lines_max: int = 20) -> str:
        """For a terminal: the verdict, what is ruled out, and the first contradiction in words."""
        cost = self.parts[0]
        size = counted(len(self.history), "transaction")
        rows_ = [f"{self.status.value.upper()}: {size}, {self.model}, workload {self.object}"]
        if self.reason:
            rows_.append(f"  {self.reason}")
        rows_.append(f"  decided by: {cost.algorithm} ({cost.cost})")
        if self.anomalies:
            rows_.append(f"  anomalies: {', '.join(self.anomalies)}")
        if self.not_:
            rows_.append(f"  not: {', '.join(self.not_)}")
        if self.also_not:
            rows_.append(f"  also not: {', '.join(self.also_not)}")
        if self.views:
            rows_.extend(f"  {line}" for line in self.views[0].text().splitlines())
        if len(rows_) > lines_max:
            left = len(rows_) - lines_max + 1
            rows_[lines_max - 1 :] = [f"  ({left} more lines in the HTML page)"]
        return "\n".join(rows_) + "\n"
