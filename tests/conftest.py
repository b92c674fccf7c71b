"""Every call of the library is checked against its shapes and types while tests run."""

import torch
from jaxtyping import install_import_hook

install_import_hook(["negcache", "benchmarks.datasets"], "beartype.beartype")

torch.set_num_threads(1)
