"""Drawn examples are the same in every run, and a busy machine makes none of them fail.

New ones are drawn by `make campaign` (``--hypothesis-profile=explore``).
"""

import gc
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

explore = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", explore)
settings.register_profile("fixed", explore, derandomize=True)
settings.load_profile("fixed")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays to the end: to look through eight thousand tests for garbage, again and again, would take
    longer than most of them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
