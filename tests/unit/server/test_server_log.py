"""What of the events of a server comes into its log, and how loud."""

import logging

import pytest

from troth.core.interface import Trace
from troth.server.observed import tell


@pytest.mark.parametrize(
    ("event", "level"),
    [("alarm_raised", "WARNING"), ("alarm_cleared", "WARNING"), ("leader", "INFO"), ("vote", "DEBUG")],
)
def test_what_somebody_should_look_at_is_a_warning(
    event: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "troth.server"):
        tell(Trace(name=event, facts={"kind": "nospace"}))
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [(level, event.replace("_", " "))]
