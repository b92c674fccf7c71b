"""The kernel of block masses against the torch path: interpreted on a CPU, compiled for a GPU.

Nothing here says how fast it is.
"""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import interpreted_masses
import pytest
import torch
from interpreted_masses import CASES, Made, made, table_of

from negcache.ops import gpu_masses, two_stage
from negcache.score import DotScore, Reshaped

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """What the kernel made of every case, in a process whose Triton interprets."""
    file = tmp_path_factory.mktemp("interpreted") / "made"
    done = subprocess.run(
        [sys.executable, interpreted_masses.__file__, file],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {name: Made(*each) for name, each in torch.load(file).items()}


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_is_its_twin(interpreted, name):
    """Masses to 1e-5 and a few roundings, and every item that equal noise draws."""
    ours, theirs = interpreted[name], made(CASES[name]())
    assert ours.masses.dtype == torch.float32
    torch.testing.assert_close(ours.masses, theirs.masses, atol=1e-5, rtol=4e-7)
    assert torch.equal(ours.slots, theirs.slots)
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=4e-7)


def test_a_block_without_mass_has_none(interpreted):
    masses = interpreted["holes"].masses
    assert (masses[:, 2] == -torch.inf).all(), "its rows do not stand"
    assert (masses[2] == -torch.inf).all(), "this query may draw nothing"
    assert masses[[0, 1, 3, 4]][:, [0, 1, 3, 4, 5]].isfinite().all()


def test_chunks_do_not_matter(interpreted):
    assert torch.equal(interpreted["weights, two chunks"].masses, interpreted["weights"].masses)


def test_what_half_precision_of_rows_costs(interpreted):
    """At scale 20, of unit rows: 2e-2 of a log-mass for bfloat16, 4e-3 for float16."""
    for name, bound in (("bfloat16", 2e-2), ("float16", 4e-3)):
        off = (interpreted[name].masses - interpreted["float32"].masses).abs().max()
        assert bound / 20 < off < bound


def test_where_there_is_no_kernel_torch_does_it(monkeypatch):
    """None says so; were there a kernel, it would fail here for want of a GPU."""
    rows = table_of()
    assert gpu_masses.gpu_masses(rows) is None, "rows on a CPU"
    monkeypatch.setattr(gpu_masses, "DEVICES", {"cpu"})
    assert gpu_masses.gpu_masses(rows.under(DotScore(0.05, absolute=True))) is None
    assert gpu_masses.gpu_masses(rows.under(Reshaped(rows.score, torch.tanh))) is None
    assert gpu_masses.gpu_masses(replace(rows, queries=rows.queries.double())) is None
    monkeypatch.setattr(gpu_masses, "has_triton", lambda: False)
    assert gpu_masses.gpu_masses(rows) is None
    torch.testing.assert_close(two_stage.scan(rows).log_masses, made(rows).masses)


@pytest.mark.parametrize(("rows", "capability"), [("fp32", 80), ("bf16", 90), ("fp16", 80)])
def test_it_compiles_for_gpus_that_are_not_here(rows, capability, tmp_path, monkeypatch):
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from negcache.compiled.triton_masses import WARPS, Masked, Rows, Sizes, _masses

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")
    types = {
        "queries": "*fp32",
        "rows": Rows(f"*{rows}", "*fp32"),
        "masked": Masked("*i64", "*i64", "*i64"),
        "out": "*fp32",
        "sizes": Sizes("i32", "i32", "i32", "i32"),
        "block": "constexpr",
    }
    source = ASTSource(_masses, types, {"block": two_stage.BLOCK})
    made = compile(source, GPUTarget("cuda", capability, 32), {"num_warps": WARPS})
    assert made.asm["cubin"]
    assert made.metadata.shared <= 48 << 10, "what every GPU has for a block of threads"
