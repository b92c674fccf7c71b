"""What a fault is, and the tests that see most of them."""

from typing import NamedTuple

ROSTER = "tests/samplers/test_roster.py::"


class Mutant(NamedTuple):
    """One fault: ``old`` becomes ``new`` in ``file``, and one of the ``tests`` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


def laws(case: str) -> str:
    """The roster's laws of one sampler in one setting."""
    return f"{ROSTER}test_laws[{case}]"


def forms(case: str) -> str:
    """Weights, and log_z with its shares, as the roster compares them."""
    return f"{ROSTER}test_both_forms_of_a_draw_agree[{case}]"
