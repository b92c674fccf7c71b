"""What does an exact draw from the softmax over a whole cache cost?

    python -m benchmarks.draw_cost [--threads 2]

Beside it, in turn: one bare ``torch.mm`` of all scores into preallocated memory, and one
``argmax(scores + Gumbel noise)`` pass over them (one noise matrix, -log(-log U) as it is commonly
written; a second, hand-tuned in-place version is reported beside it). IEEE float32. Memory is the
growth of the peak RSS of a child process that only draws (Linux).
"""

import argparse
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch

from benchmarks.record import append_rows, conclude, hardware, interleaved
from benchmarks.rows import embeddings as rows_of
from negcache import CachedSoftmax, DenseCache, DotScore
from negcache.draws import draw
from negcache.exclusion import Exclusion
from negcache.messages import Request

D, B, DRAWS, TEMPERATURE = 64, 256, 8, 0.05
SIZES = (10_000, 100_000, 1_000_000)


def problem(num_items: int, dtype: torch.dtype) -> tuple[CachedSoftmax, Request]:
    """Random unit-norm items and queries; each query excludes its target."""
    generator = torch.Generator().manual_seed(0)
    score = DotScore(TEMPERATURE).requires_grad_(False)
    store = DenseCache(num_items, D, dtype=dtype)
    for start in range(0, num_items, 65536):
        ids = torch.arange(start, min(start + 65536, num_items))
        store.write(ids, score.embed(torch.randn(len(ids), D, generator=generator)))
    queries = score.embed(torch.randn(B, D, generator=generator))
    positives = torch.randint(0, num_items, (B,), generator=generator)
    exclude = Exclusion.from_pairs(torch.arange(B), positives, B)
    return CachedSoftmax(store, DRAWS), Request(queries, score, positives, exclude)


def embeddings(sampler: CachedSoftmax) -> torch.Tensor:
    """The rows of its store, as one tensor."""
    assert isinstance(sampler.store, DenseCache)
    return rows_of(sampler.store)


def gumbel_pass(queries: torch.Tensor, items: torch.Tensor, generator: torch.Generator) -> None:
    """The published draw: one Gumbel variate per score, one arg-max per query."""
    scores = queries @ items.T
    noise = -torch.log(-torch.log(torch.rand(scores.shape, generator=generator)))
    (scores + noise).argmax(dim=1)


def gumbel_in_place(queries: torch.Tensor, items: torch.Tensor, generator: torch.Generator) -> None:
    """The same pass with every operation in place: the fastest we could write it."""
    scores = queries @ items.T
    noise = torch.empty_like(scores).uniform_(generator=generator)
    noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_().neg_().log_()
    scores.sub_(noise).argmax(dim=1)


def measure(num_items: int, repeats: int) -> dict[str, float]:
    """Median seconds of the draw (float32 and bfloat16 rows), the product and the Gumbel pass."""
    sampler, request = problem(num_items, torch.float32)
    half, _ = problem(num_items, torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    scaled, items = request.queries * request.score.scale, embeddings(sampler)
    scores = torch.empty(B, num_items)
    scaled_half, items_half = scaled.bfloat16(), embeddings(half)
    scores_half = torch.empty(B, num_items, dtype=torch.bfloat16)
    return interleaved(
        {
            "matmul": partial(torch.mm, scaled, items.T, out=scores),
            "draw": partial(draw, sampler, request, generator),
            "gumbel": partial(gumbel_pass, scaled, items, generator),
            "gumbel_in_place": partial(gumbel_in_place, scaled, items, generator),
            "matmul_bf16": partial(torch.mm, scaled_half, items_half.T, out=scores_half),
            "draw_bf16": partial(draw, half, request, generator),
        },
        repeats,
    )


def extra_memory(num_items: int) -> None:
    """Child process: print how far one draw raises the peak RSS, in bytes."""
    sampler, request = problem(num_items, torch.float32)
    torch.mm(request.queries, sampler.store.rows(torch.arange(512)).T)  # thread pools and the like
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew at what is held now
    before = peak_rss()
    for seed in range(3):
        draw(sampler, request, torch.Generator().manual_seed(seed))
    print(peak_rss() - before)


def peak_rss() -> int:
    """Peak resident memory of this process in bytes, as Linux tells it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        return extra_memory(options.memory)
    rows = []
    for num_items in SIZES:
        seconds = measure(num_items, options.repeats)
        child = [sys.executable, "-m", "benchmarks.draw_cost", "--memory", str(num_items)]
        printed = subprocess.run(child, check=True, capture_output=True, text=True).stdout
        rows.append({"items": num_items, **seconds, "extra_bytes": int(printed), **hardware()})
        print({key: rows[-1][key] for key in ("items", *seconds, "extra_bytes")})
    append_rows("draw_cost", rows)
    largest = rows[-1]
    conclude(
        "draw_cost",
        {
            "matmul_ratio": round(largest["draw"] / largest["matmul"], 3),
            "gumbel_speedup": round(largest["gumbel"] / largest["draw"], 2),
            "gumbel_in_place_speedup": round(largest["gumbel_in_place"] / largest["draw"], 2),
            "extra_memory_share": round(largest["extra_bytes"] / (4 * B * SIZES[-1]), 4),
            "bf16_matmul_ratio": round(largest["draw_bf16"] / largest["matmul_bf16"], 3),
            "bf16_draw_over_fp32_draw": round(largest["draw_bf16"] / largest["draw"], 3),
        },
    )


if __name__ == "__main__":
    main()
