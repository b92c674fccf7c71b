"""What tests of the hosts share."""

import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """What a user without our type checks meets: the library's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
