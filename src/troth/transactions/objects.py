"""What an abort undoes of the objects of an ORM session, which is not asked, and may be closed already."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy.orm import InstanceState, Session, make_transient, make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value


class Objects:
    """The states of objects (which may have no hash) of one session in one transaction."""

    def __init__(self) -> None:
        self._inserted: weakref.WeakSet[InstanceState[Any]] = weakref.WeakSet()
        self._deleted: weakref.WeakSet[InstanceState[Any]] = weakref.WeakSet()
        self._left: weakref.WeakSet[InstanceState[Any]] = weakref.WeakSet()
        """What was loaded when the session was closed."""
        self._values: weakref.WeakKeyDictionary[InstanceState[Any], dict[str, Any]] = weakref.WeakKeyDictionary()
        """Of what is inserted, what a commit of the session's has expired: it cannot be loaded after an abort."""

    def has_inserted(self, state: InstanceState[Any]) -> None:
        """Until `has_undone`, or the end of the transaction."""
        self._inserted.add(state)

    def has_undone(self, state: InstanceState[Any]) -> None:
        """It is transient again, and whatever becomes of it now is not this transaction's."""
        self._inserted.discard(state)

    def has_deleted(self, state: InstanceState[Any]) -> None:
        """That goes for what this transaction has inserted, too."""
        self._deleted.add(state)

    def has_left(self, states: Iterable[InstanceState[Any]]) -> None:
        """The session is being closed."""
        self._left.update(states)

    def keep_values(self) -> None:
        """The session is about to expire what it has, as after a commit."""
        for state in list(self._inserted):
            mapper = state.mapper
            keys = (*mapper.column_attrs.keys(), *(each.key for each in mapper.relationships if not each.viewonly))
            here = {key: state.dict[key] for key in keys if key in state.dict}
            if here:
                self._values[state] = {**self._values.get(state, {}), **here}

    def undo(self, is_ours: Callable[[Session | None], bool]) -> None:
        """Have no object that is not there, and load the others again; what other sessions have is theirs."""

        def mine(states: Iterable[InstanceState[Any]]) -> Iterable[tuple[InstanceState[Any], Any]]:
            for state in list(states):
                each = state.obj()
                if each is not None and is_ours(state.session):
                    yield state, each

        for state, each in mine(self._inserted):
            make_transient(each)
            for key, value in self._values.get(state, {}).items():
                if key not in state.dict:
                    set_committed_value(each, key, value)
        for state, each in mine(self._deleted - self._inserted):
            make_transient(each)
            make_transient_to_detached(each)
            self._left.add(state)
        for state, _ in mine(self._left - self._inserted):
            if state.detached:
                state._expire(state.dict, set())  # its session, which has the method for it, is closed
