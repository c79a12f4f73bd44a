"""`troth.models` says which model implies which; the checkers must agree."""

from troth.models import MODELS
from troth.verify.check import MODELS as CHECKED
from troth.verify.check import check
from troth.verify.verdict import Status

from .weak_histories import weak_history

# What is asked for with a number needs one; what says nothing about one run has no checker.
NAMES = sorted(MODELS.keys() & set(CHECKED) - {"bounded"})


def implied_by(name: str) -> set[str]:
    """All models that *name* implies, directly or through others; itself included."""
    return {name}.union(*(implied_by(each) for each in MODELS[name].implies))


def test_what_a_model_allows_is_allowed_by_all_that_it_implies() -> None:
    allowed_some, refused_some = set(), set()
    for seed in range(300):
        history = weak_history(seed)
        allowed = {name for name in NAMES if check(history, name, "register").status is not Status.ILLEGAL}
        for name in allowed:
            assert implied_by(name) & set(NAMES) <= allowed, (seed, name)
        allowed_some |= allowed
        refused_some |= set(NAMES) - allowed
    assert allowed_some == refused_some == set(NAMES)
