"""Every call of the library is checked against its shapes and types while tests run."""

import jaxtyping
import pytest
import torch
from hypothesis import Phase, settings
from jaxtyping import install_import_hook

install_import_hook(["negcache", "benchmarks.datasets"], "beartype.beartype")

torch.set_num_threads(1)

settings.register_profile("mutants", phases=[Phase.explicit, Phase.generate], database=None)
"""A fault that is seen is seen: no smaller example of it is looked for."""


@pytest.fixture
def unchecked():
    """No type checks: what a user meets, the library's own errors; and draws by the hundred."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
