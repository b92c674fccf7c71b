"""Which cases of one statement run with the fast tests, and which are left to the slow ones."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow(*values: Any) -> Any:
    """A case that ``make test-all`` runs alone."""
    return pytest.param(*values, marks=pytest.mark.slow)


def fast(cases: Iterable[Any], *chosen: Any) -> list[Any]:
    """All cases by their names, of which these alone are fast."""
    names = list(cases)
    missing = set(chosen) - set(names)
    assert not missing, f"there is no case {missing}"
    return [name if name in chosen else slow(name) for name in names]
