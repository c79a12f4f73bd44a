"""From what the caller gave to participants."""

from pathlib import Path
from typing import Any

import pytest

sa = pytest.importorskip("sqlalchemy")

from troth.errors import UsageError  # noqa: E402
from troth.transactions.participants import choose as choose_module  # noqa: E402
from troth.transactions.participants.choose import choose  # noqa: E402
from troth.transactions.waiting import InThreads  # noqa: E402


class Client:
    is_closed = False

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("refused", [{"other": 7}, {"troth://b": "troth://b"}])
def test_who_is_refused_leaves_no_client_of_ours_open(
    refused: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Client] = []

    def connect(url: str) -> Client:
        if len(made) == 1:
            raise UsageError("as asked")
        made.append(Client())
        return made[-1]

    monkeypatch.setattr(choose_module, "connect", connect)
    with pytest.raises(UsageError):
        choose({"troth://a": "troth://a", **refused}, InThreads())
    assert [client.is_closed for client in made] == [True]
