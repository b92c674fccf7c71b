"""What does an exact draw cost on two threads, on a quiet machine and beside a busy neighbour?

    python -m benchmarks.draw_threads [--items 100000 1000000]

256 queries, D = 64, IEEE float32, one draw a query, wall-clock seconds. Beside the draw, in turn:
one bare ``torch.mm`` of all scores into preallocated memory on the same threads. ``quiet``: nothing
else runs; ``busy``: as many processes as there are threads but one multiply small matrices without
end, each on one thread. ``busy_over_product``: the draw over the product, both beside neighbours.
On one thread too, for what a second one brings. Run it on a machine that does nothing else.
"""

import argparse
import subprocess
import sys
from functools import partial
from typing import Any

import torch

from benchmarks.draw_cost import embeddings, problem
from benchmarks.record import append_rows, conclude, hardware, interleaved
from negcache import CachedSoftmax
from negcache.draws import draw

NAME, REPEATS = "draw_threads", 9
BUSY = "import torch; torch.set_num_threads(1); a = torch.rand(256, 256)\nwhile True: a @ a"


def measured(num_items: int, threads: int) -> dict[str, float]:
    """Median seconds of product and draw."""
    torch.set_num_threads(threads)
    sampler, request = problem(num_items, torch.float32)
    sampler = CachedSoftmax(sampler.store, 1)
    generator = torch.Generator().manual_seed(1)
    scaled, items = request.queries * request.score.scale, embeddings(sampler)
    scores = torch.empty(len(scaled), num_items)
    return interleaved(
        {
            "product": partial(torch.mm, scaled, items.T, out=scores),
            "draw": partial(draw, sampler, request, generator),
        },
        REPEATS,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[100_000, 1_000_000])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for num_items in options.items:
        for threads, neighbours in ((1, 0), (2, 0), (2, 1)):
            busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(neighbours)]
            try:
                found = measured(num_items, threads)
            finally:
                for each in busy:
                    each.kill()
            place = {"items": num_items, "threads_used": threads, "neighbours": neighbours}
            rows.append(place | found | hardware())
            print(rows[-1], flush=True)
    append_rows(NAME, rows)
    last = {(row["threads_used"], row["neighbours"]): row for row in rows}
    quiet, busy = last[2, 0], last[2, 1]
    conclude(
        NAME,
        {
            "quiet_over_product": round(quiet["draw"] / quiet["product"], 2),
            "busy_over_product": round(busy["draw"] / busy["product"], 2),
            "two_threads_over_one": round(quiet["draw"] / last[1, 0]["draw"], 2),
        },
    )


if __name__ == "__main__":
    main()
