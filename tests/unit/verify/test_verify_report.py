"""The page: self-contained, complete, and safe whatever the history holds."""

import json

import pytest

from troth.verify.check import check
from troth.verify.completions import pair
from troth.verify.history import Event, EventType, History
from troth.verify.report import html, text


def history(count: int, *, wrong: bool) -> History:
    """Writes and reads of a key with an awkward name, one fault in between."""
    events = []
    for at in range(count):
        value = f"</script><!-- {at} --> \u2028"
        events.append(Event(type=EventType.INVOKE, process=0, f="put", key="<b>", value=value, time=at))
        events.append(Event(type=EventType.OK, process=0, f="put", key="<b>", value=value, time=at))
    events.append(Event(type=EventType.INFO, process="nemesis", f="start", value="partition"))
    events.append(Event(type=EventType.INVOKE, process=1, f="get", key="<b>", time=count))
    seen = "nonsense" if wrong else f"</script><!-- {count - 1} --> \u2028"
    events.append(Event(type=EventType.OK, process=1, f="get", key="<b>", value=seen, time=count))
    events.append(Event(type=EventType.INFO, process="nemesis", f="stop"))
    events.append(Event(type=EventType.INVOKE, process=2, f="put", key="<b>", value="lost"))
    return pair(events)


def data_of(page: str) -> dict[str, object]:
    """What the page was given to draw."""
    line = next(line for line in page.splitlines() if line.startswith("const data = "))
    found = json.loads(line.removeprefix("const data = ").removesuffix(";"))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("wrong", [False, True])
def test_page_holds_everything_and_needs_nothing(wrong: bool) -> None:
    """No address in it, one script, every operation, the fault as a band, states where there is an order."""
    page = html(check(history(5, wrong=wrong)), title="<i>", command="troth verify x")
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count("<script") == page.count("</script>") == 1
    data = data_of(page)
    bars, faults = data["bars"], data["faults"]
    assert isinstance(bars, list) and isinstance(faults, list)
    assert len(bars) == 7
    assert [fault["text"] for fault in faults] == ['nemesis: start "partition"']
    assert [bar["i"] for bar in bars if bar["bad"]] == ([5] if wrong else [])
    assert sum(1 for bar in bars if bar["after"]) >= 5
    assert data["bad"] == (5 if wrong else None)
    assert data["command"] == "troth verify x"


def test_large_histories_are_cut_around_the_failure() -> None:
    """And the page says so."""
    data = data_of(html(check(history(500, wrong=True)), operations_max=100))
    bars = data["bars"]
    assert isinstance(bars, list)
    assert len(bars) < 250
    assert any(bar["bad"] for bar in bars)
    assert "of 502 operations" in str(data["cut"])


def test_text_is_twenty_lines() -> None:
    """For terminals and CI logs."""
    shown = text(check(history(50, wrong=True)))
    assert len(shown.splitlines()) <= 20
    assert shown.startswith("ILLEGAL: 52 operations")


def test_what_never_returned_is_drawn_where_it_was_invoked() -> None:
    """Not in every window that comes later."""
    lost = [Event(type=EventType.INVOKE, process=100 + at, f="put", key="<b>", value="lost") for at in range(300)]
    late = pair([*lost, *history(500, wrong=True).events()])
    data = data_of(html(check(late), operations_max=100))
    bars = data["bars"]
    assert isinstance(bars, list)
    assert len(bars) < 250
    assert all(bar["to"] >= 0 for bar in bars)
