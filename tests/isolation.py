"""What keeps one test's preparations and Accelerate state from another's."""

import pytest
from accelerate.state import AcceleratorState, GradientState


@pytest.fixture(autouse=True)
def clean_process(monkeypatch, tmp_path_factory):
    """Prepared tasks are kept apart; every test has an Accelerate of its own."""
    monkeypatch.setenv("NEGCACHE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    _forget()
    yield
    _forget()


@pytest.fixture(autouse=True, scope="module")
def clean_module():
    """What a module prepares for all of its tests meets no Accelerate of another's."""
    _forget()


def _forget():
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
