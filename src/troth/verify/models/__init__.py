"""Objects: what one operation does to one object, said as a step of a deterministic state machine.

An object of your own takes ten lines::

    class Toggle(Model):
        name = "toggle"

        def init(self) -> Value:
            return False

        def step(self, state: Value, call: Call) -> Value:
            if call.f == "flip":
                return not state
            return state if not call.known or call.result == state else ILLEGAL

`check(history, object=Toggle())` then works for every consistency model that needs a sequential object. States
must be hashable and are never changed in place. `Several` says that more than one state may follow.

Two optional hints make checking fast without changing any verdict: `total` (legal in every state, whatever it
returns) and `overwrites` (total, and the next state does not depend on the present one).

Objects whose keys are independent are checked key by key (Herlihy & Wing 1990, theorem 1: linearizability is local).
"""

from collections.abc import Callable
from typing import Final

from troth.errors import UsageError
from troth.verify.models.bank import Bank
from troth.verify.models.locks import Lock, Mutex
from troth.verify.models.model import ILLEGAL, Call, Model, Several
from troth.verify.models.multi import MultiRegister
from troth.verify.models.queues import Queue, Stack, UnorderedQueue
from troth.verify.models.registers import CasRegister, Kv, Register
from troth.verify.models.sets import Counter, SetObject

__all__ = [
    "ILLEGAL",
    "OBJECTS",
    "Bank",
    "Call",
    "CasRegister",
    "Counter",
    "Kv",
    "Lock",
    "Model",
    "MultiRegister",
    "Mutex",
    "Queue",
    "Register",
    "SetObject",
    "Several",
    "Stack",
    "UnorderedQueue",
    "model_of",
]

OBJECTS: Final[dict[str, Callable[[], Model]]] = {
    "register": Register,
    "cas-register": CasRegister,
    "multi-register": MultiRegister,
    "kv": Kv,
    "set": SetObject,
    "counter": Counter,
    "queue": Queue,
    "unordered-queue": UnorderedQueue,
    "stack": Stack,
    "lock": Lock,
    "mutex": Mutex,
    "bank": Bank,
}
"""Objects by name, as the command line takes them."""


def model_of(object: str | Model) -> Model:
    """The model of that name, or the model itself.

    Raises:
        UsageError: no such name.
    """
    if isinstance(object, Model):
        return object
    factory = OBJECTS.get(object)
    if factory is None:
        raise UsageError(f"no object is called {object!r}; there are {', '.join(OBJECTS)}")
    return factory()
