"""The pages that troth draws, in a real browser: they draw, answer to mouse and keyboard, and need nobody else."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import Page, chromium, installed

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(installed() is None, reason="Chromium is not installed (make browser)"),
]

STALE = """\
{"process": 0, "type": "invoke", "f": "put", "key": "a", "value": "1"}
{"process": 0, "type": "ok", "f": "put", "key": "a", "value": "1"}
{"process": "nemesis", "type": "info", "f": "partition", "value": "n1 | n2 n3"}
{"process": 1, "type": "invoke", "f": "put", "key": "a", "value": "<b>2</b>"}
{"process": 1, "type": "ok", "f": "put", "key": "a", "value": "<b>2</b>"}
{"process": "nemesis", "type": "info", "f": "end partition"}
{"process": 2, "type": "invoke", "f": "get", "key": "a"}
{"process": 2, "type": "ok", "f": "get", "key": "a", "value": "1"}
{"process": 0, "type": "invoke", "f": "put", "key": "a", "value": "3"}
"""

SKEW = """\
{"process": 0, "type": "invoke", "f": "txn", "value": [["append", "x", 1], ["r", "y", null]]}
{"process": 1, "type": "invoke", "f": "txn", "value": [["append", "y", 1], ["r", "x", null]]}
{"process": 0, "type": "ok", "f": "txn", "value": [["append", "x", 1], ["r", "y", []]]}
{"process": 1, "type": "ok", "f": "txn", "value": [["append", "y", 1], ["r", "x", []]]}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with chromium() as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    browser.complaints.clear()
    browser.asked_for.clear()
    yield browser
    assert browser.complaints == []
    assert all(url.startswith("file:") for url in browser.asked_for), browser.asked_for
    assert len(browser.asked_for) == 1


def troth(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "troth", *map(str, words)], capture_output=True, text=True, check=False, timeout=300
    )


def drawn(tmp_path: Path, history: str) -> Path:
    recorded, drawing = tmp_path / "run.jsonl", tmp_path / "run.html"
    recorded.write_text(history)
    done = troth("verify", recorded, "--html", drawing)
    assert done.returncode == 1, done.stderr
    return drawing


def shown(page: Page, expression: str) -> bool:
    return bool(page.value(f"getComputedStyle({expression}).display !== 'none'"))


BAD = "document.querySelector('#frame .bar.bad')"
TIP = "document.getElementById('tip')"
NAMED = "document.getElementById('{}')"


def test_a_stale_read_is_named_jumped_to_and_explained(page: Page, tmp_path: Path) -> None:
    page.open(drawn(tmp_path, STALE))
    assert page.value("document.getElementById('status').textContent") == "illegal"
    assert page.value("document.querySelectorAll('#frame .bar').length") == 4
    assert page.value("document.querySelectorAll('#frame .band').length") == 1
    assert page.value("document.querySelectorAll('#frame b').length") == 0, "a value is text and no HTML"
    page.click(NAMED.format("jump"))
    assert page.value(f"{BAD}.classList.contains('pinned')")
    page.press("Escape")
    assert not page.value(f"{BAD}.classList.contains('pinned')")
    assert not shown(page, TIP)
    page.point(*page.middle(BAD))
    assert shown(page, TIP) and "cannot be placed" in page.value(f"{TIP}.textContent")
    page.point(1, 1)
    assert not shown(page, TIP)


def test_the_order_and_its_states_are_followed_by_mouse_and_arrow_keys(page: Page, tmp_path: Path) -> None:
    page.open(drawn(tmp_path, STALE))
    path = "document.querySelector('#frame .path')"
    assert page.value(path) is None
    page.point(*page.middle("document.querySelector('#frame .bar')"))
    assert "number 1 in" in page.value(f"{TIP}.textContent") and "state" in page.value(f"{TIP}.textContent")
    assert page.value(f"{path}.getAttribute('points').split(' ').length") == 1
    page.click("document.querySelector('#frame .bar')")
    page.press("ArrowRight")
    assert page.value("document.querySelectorAll('#frame .bar')[1].classList.contains('pinned')")
    assert page.value(f"{path}.getAttribute('points').split(' ').length") == 2
    page.press("ArrowLeft")
    assert page.value("document.querySelectorAll('#frame .bar')[0].classList.contains('pinned')")
    page.press("Escape")
    page.click(NAMED.format("all"))
    assert page.value(f"{path}.getAttribute('points').split(' ').length") == 2, "all that could be placed"


def test_names_of_processes_fit_their_column(page: Page, tmp_path: Path) -> None:
    page.open(drawn(tmp_path, STALE))
    column = page.value("document.getElementById('names').getBoundingClientRect().right")
    ends = page.value("[...document.querySelectorAll('#names text')].map(t => t.getBoundingClientRect().right)")
    assert ends and max(ends) <= column


def test_a_cycle_of_transactions_is_drawn_and_told(page: Page, tmp_path: Path) -> None:
    page.open(drawn(tmp_path, SKEW))
    whole = page.value("document.getElementById('short').innerText")
    assert "G2-item: a cycle" in whole and "a contradiction" in whole
    assert page.value("document.querySelectorAll('#short svg path').length") >= 2
    # Both transactions and both arrows lie inside the picture.
    inside = (
        "(svg => { const o = svg.getBoundingClientRect(); return [...svg.querySelectorAll('rect, text')].every(e => {"
        " const b = e.getBoundingClientRect();"
        " return b.left >= o.left && b.right <= o.right && b.top >= o.top && b.bottom <= o.bottom }) })"
    )
    assert page.value(f"{inside}(document.querySelector('#short svg'))")


def test_a_simulated_run_is_scrubbed_zoomed_and_played(page: Page, tmp_path: Path) -> None:
    drawing = tmp_path / "run.html"
    done = troth("simulate", "replay", "7", "--seconds", "2", "--html", drawing)
    assert done.returncode == 0, done.stderr
    page.open(drawing)
    clock = "document.getElementById('clock').textContent"
    ink = (
        "(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data].filter((v, i) => i % 4 === 3 && v)"
        ".length)(document.getElementById('c'))"
    )
    at_the_end, drawn_there = page.value(clock), page.value(ink)
    assert drawn_there > 5000, "nodes, a ruler and messages"
    # The mouse on a message, or on a node's own event, says what it is.
    where = page.value(
        "(([a, b, c, d]) => { const o = canvas.getBoundingClientRect();"
        " return [o.x + (a + c) / 2, o.y + (b + d) / 2] })(hits.find(h => h[4].includes('→ n') && h[0] > LEFT))"
    )
    page.point(*where)
    assert shown(page, TIP) and "→" in page.value(f"{TIP}.textContent")
    before = page.value("span")
    page.call("Input.dispatchMouseEvent", type="mouseWheel", x=where[0], y=where[1], deltaX=0, deltaY=-100)
    assert page.value("span") < before
    page.click(NAMED.format("start"))
    assert page.value(clock).startswith("0.0000") and page.value(clock) != at_the_end
    page.press("ArrowRight")
    begun = page.value("at")
    assert begun > 0
    page.click(NAMED.format("play"))
    page.value(
        f"new Promise(done => {{ const look = () => at > {begun} ? done(1) : setTimeout(look, 5); look() }})"
    )
    page.click(NAMED.format("play"))
    page.click(NAMED.format("last"))
    assert page.value("Math.abs(at + span - D.end)") < 1


def test_a_ring_is_drawn(page: Page, tmp_path: Path) -> None:
    drawing = tmp_path / "ring.html"
    done = troth("ring", "--nodes", "a,b=2,c", "show", "--html", drawing)
    assert done.returncode == 0, done.stderr
    page.open(drawing)
    assert page.value("document.querySelectorAll('svg path').length") >= 3
    assert {"a", "b", "c"} <= set(page.value("document.body.innerText").split())
