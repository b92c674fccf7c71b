"""Faults of the kernel of block masses, and of where it is taken."""

from tests.mutants.mutant import Mutant

TESTS = "tests/ops/test_gpu_masses.py::"
ON_CPU = "tests/ops/test_cpu_masses.py::test_the_compiled_sum_is_its_twin"
TWIN = f"{TESTS}test_the_kernel_is_its_twin"
ELSEWHERE = f"{TESTS}test_where_there_is_no_kernel_torch_does_it"

MUTANTS = [
    Mutant(
        "gpu: excluded rows count",
        "compiled/triton_masses.py",
        "(query == whose)[:, None] & (place == which)[None, :]",
        "(query == -1)[:, None] & (place == which)[None, :]",
        TWIN,
    ),
    Mutant(
        "gpu: what is excluded for one query is for all of its tile",
        "compiled/triton_masses.py",
        "(query == whose)[:, None] & (place == which)[None, :]",
        "(query > -1)[:, None] & (place == which)[None, :]",
        TWIN,
    ),
    Mutant(
        "gpu: what no row holds spoils its block",
        "compiled/triton_masses.py",
        "tl.where(bias == NOTHING, NOTHING, logits + bias)",
        "logits + bias",
        TWIN,
    ),
    Mutant(
        "gpu: rows beyond the last count",
        "compiled/triton_masses.py",
        "mask=row < sizes.rows, other=NOTHING",
        "mask=row < sizes.rows, other=0.0",
        TWIN,
    ),
    Mutant(
        "gpu: dimensions after the last whole part are left out",
        "compiled/triton_masses.py",
        "inside = dim < sizes.dims",
        "inside = dim < sizes.dims // DIMS * DIMS",
        TWIN,
    ),
    Mutant(
        "gpu: exclusions of every chunk are those of the first",
        "ops/gpu_masses.py",
        "edges[here.start :]",
        "edges",
        f"{TESTS}test_chunks_do_not_matter",
    ),
    Mutant(
        "gpu: the scale of the score is left out",
        "ops/gpu_masses.py",
        "queries * rows.score.scale",
        "queries * 1.0",
        TWIN,
    ),
    Mutant(
        "gpu: any score counts as a product",
        "ops/gpu_masses.py",
        "        and is_product(rows.score)\n",
        "",
        ELSEWHERE,
    ),
    Mutant(
        "gpu: float64 queries are taken",
        "ops/gpu_masses.py",
        "        and queries.dtype == torch.float32\n",
        "",
        ELSEWHERE,
    ),
    Mutant(
        "cpu: excluded rows count",
        "ops/cpu_masses.py",
        "scores[places, queries] = -torch.inf",
        "pass",
        ON_CPU,
    ),
    Mutant(
        "cpu: what an earlier chunk left beyond the last row counts",
        "ops/cpu_masses.py",
        "memory[len(chunk) : whole] = -torch.inf",
        "pass",
        ON_CPU,
    ),
    Mutant(
        "cpu: a row's weight is not in base 2",
        "ops/cpu_masses.py",
        ", alpha=LOG2_E)",
        ")",
        ON_CPU,
    ),
    Mutant(
        "gpu: stage one never asks the device",
        "ops/two_stage.py",
        "for way in (rows.masses, gpu_masses, cpu_masses):",
        "for way in (rows.masses, cpu_masses):",
        TWIN,
    ),
]
