"""Accounts, between which money moves."""

from collections.abc import Mapping
from typing import ClassVar

from typing_extensions import override

from troth.errors import UsageError
from troth.verify.formats.edn import Record
from troth.verify.history import Reading, Value
from troth.verify.models.model import ILLEGAL, Call, Model, unknown


class Bank(Model):
    """Accounts: transfer {from, to, amount} (or [from, to, amount]), read -> {account: balance}.

    A transfer that reports ``false`` moved nothing.

    Args:
        balances: what every account starts with. Needed, since a history does not say it. Accounts are told apart by
            their text, since JSON makes the names of maps texts.
    """

    name: ClassVar[str] = "bank"
    personal: ClassVar[bool] = False
    keyed: ClassVar[bool] = False

    def __init__(self, balances: Mapping[Value, int] | None = None, *, negative: bool = False) -> None:
        self.balances = balances
        self.negative = negative

    @override
    def init(self) -> Value:
        """The balances given.

        Raises:
            UsageError: none were given.
        """
        if self.balances is None:
            raise UsageError("a bank needs its initial balances: object=Bank({0: 10, 1: 10})")
        return Record((str(account), balance) for account, balance in self.balances.items())

    @override
    def reading(self, reading: Reading) -> "Bank":
        """The reading's initial value, if it is a map, gives the balances."""
        if self.balances is None and isinstance(reading.initial, Record):
            return Bank(
                {key: value for key, value in reading.initial if isinstance(value, int)}, negative=self.negative
            )
        return self

    @override
    def step(self, state: Value, call: Call) -> Value:
        """A transfer that would overdraw is illegal (it ought to have failed) unless *negative* is allowed."""
        if not isinstance(state, Record):
            raise UsageError(f"the state of a bank is a record, found {state!r}")
        if call.f == "read":
            if not call.known:
                return state
            seen = call.result
            found = (
                {str(key): value for key, value in dict(seen).items() if value is not None}
                if isinstance(seen, Record)
                else seen
            )
            return state if found == dict(state) else ILLEGAL
        if call.f != "transfer":
            raise unknown(self, call)
        if call.known and call.result is False:
            return state
        source, target, amount = _transfer(call.argument)
        balances = dict(state)
        left = balances.get(source)
        if not isinstance(left, int) or target not in balances:
            return ILLEGAL if call.known else state
        if left < amount and not self.negative:
            return ILLEGAL if call.known else state
        balances[source] = left - amount
        gained = balances[target]
        if isinstance(gained, int):
            balances[target] = gained + amount
        return Record(balances.items())


def _transfer(value: Value) -> tuple[str, str, int]:
    if isinstance(value, Record):
        fields = {str(key): item for key, item in value}
        value = (fields.get("from"), fields.get("to"), fields.get("amount"))
    if isinstance(value, tuple) and len(value) == 3 and isinstance(value[2], int):
        return str(value[0]), str(value[1]), value[2]
    raise UsageError(f"a transfer takes {{from, to, amount}}, found {value!r}")
