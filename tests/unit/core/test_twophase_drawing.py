"""The page draws the tables as they are."""

from pathlib import Path

from troth.core.twophase.drawing import owner_diagram, recovery_diagram

PAGE = Path(__file__).parents[3] / "docs" / "transactions.md"


def test_the_page_shows_the_tables_as_they_are() -> None:
    """If this fails: paste what the functions print into the page."""
    page = PAGE.read_text()
    assert owner_diagram() in page
    assert recovery_diagram() in page
