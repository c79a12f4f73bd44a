"""What of the events of a server comes into its log, and how loud."""

import json
import logging

import pytest

from troth.core.interface import EntryId, Trace
from troth.ids import LogIndex, NodeId, Term
from troth.server.logs import JsonFormatter, TextFormatter, with_facts
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


@pytest.mark.parametrize("formatter", [TextFormatter, JsonFormatter])
def test_a_traceback_follows_where_it_is_asked_for(formatter: type[logging.Formatter]) -> None:
    """``exc_info=False`` comes as False, not as None."""
    logger, told = logging.Logger("troth.acceptor"), list[str]()
    handler = logging.Handler()
    handler.emit = lambda record: told.append(formatter("a1").format(record))  # type: ignore[call-arg,method-assign]
    logger.addHandler(handler)
    try:
        raise OSError("full")
    except OSError as error:
        for asked in (False, None, True):
            logger.critical("stops: %s", error, exc_info=asked)
    assert ["Traceback" in line for line in told] == [False, False, True]


def test_ids_are_written_as_commands_and_errors_write_them() -> None:
    facts = {"voters": (NodeId(0xAB), NodeId(0xC)), "leader": NodeId(0xC), "last": EntryId(Term(3), LogIndex(100))}
    record = logging.makeLogRecord({"msg": "became", "name": "troth.node", **with_facts(facts)})
    assert TextFormatter("n1").format(record).endswith("n1 troth.node: became voters=ab,c leader=c last=3/100")
    in_json = json.loads(JsonFormatter("n1").format(record))
    assert (in_json["voters"], in_json["leader"], in_json["last"]) == (["ab", "c"], "c", [3, 100])
    assert with_facts({"member": 0})["facts"] == {"member": "all"}
    assert with_facts({"member": NodeId(0xAB)})["facts"] == {"member": "ab"}
