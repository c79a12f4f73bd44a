"""The replicated decision log: the records as keys of a troth cluster."""

from troth.transactions.log.interface import DecisionLog


class ReplicatedLog:
    @staticmethod
    def connect(url: str, *, name: str, coordinator: str | None) -> DecisionLog:
        raise NotImplementedError
