"""Cases for the kernel of block masses; as a script, what it makes of them in Triton's interpreter.

``python interpreted_masses.py FILE`` wants TRITON_INTERPRET=1, which is read as Triton is imported:
so it is a process of its own, and the one that tests knows nothing of it.
"""

import sys
from dataclasses import replace
from typing import NamedTuple

import torch
from torch.nn.functional import normalize

import negcache as nc
from negcache.exclusion import Exclusion
from negcache.ops import gpu_masses
from negcache.ops.scored_rows import ScoredRows
from negcache.ops.two_stage import draw_rows, scan
from negcache.ops.views import BlockView
from negcache.stores.reading import scored_rows


class Made(NamedTuple):
    """Log-masses of blocks, and what equal noise draws by them."""

    masses: torch.Tensor
    slots: torch.Tensor
    logits: torch.Tensor


def table_of(queries=5, rows=700, dims=45, dtype=torch.float32, scale=20.0):
    """Unit rows and queries, a few exclusions; the last query excludes rows at edges of blocks."""
    random = torch.Generator().manual_seed(queries + rows + dims)
    asking, table = (normalize(torch.randn(n, dims, generator=random)) for n in (queries, rows))
    edges = torch.tensor([0, 127, 128, 255, rows - 1]).clamp(max=rows - 1)
    whose = [torch.randint(queries, (20,), generator=random), torch.full_like(edges, queries - 1)]
    which = [torch.randint(rows, (20,), generator=random), edges]
    exclude = Exclusion.from_pairs(torch.cat(whose), torch.cat(which), queries)
    score = nc.DotScore(1 / scale).requires_grad_(False)
    return ScoredRows.of(asking, table.to(dtype), score, exclude)


def with_holes():
    """Rows that do not stand, a block of them, and what they hold is no number; one query has none
    left."""
    rows = table_of()
    valid = torch.ones(700, dtype=torch.bool)
    valid[torch.arange(0, 700, 9)] = False
    valid[256:384] = False
    table = rows.rows(torch.arange(700)).masked_fill(~valid[:, None], torch.nan)
    every = torch.arange(700)
    exclude = rows.exclude.and_also(torch.full_like(every, 2), every)
    return replace(ScoredRows.of(rows.queries, table, rows.score, exclude), valid=valid)


def with_weights():
    weights = torch.randn(700, generator=torch.Generator().manual_seed(1))
    weights[::50] = -torch.inf
    return replace(table_of(), log_weights=weights)


def spread_out():
    """Rows and queries that are parts of wider tables, those of the queries turned."""
    rows = table_of()
    table = torch.zeros(700, 100).index_copy_(1, torch.arange(45), rows.rows(torch.arange(700)))
    queries = rows.queries.T.contiguous().T
    return ScoredRows.of(queries, table[:, :45], rows.score, rows.exclude)


def of_store():
    """As samplers read them: bfloat16, half of them never written."""
    rows, store = table_of(), nc.DenseCache(700, 45, dtype=torch.bfloat16)
    written = torch.randperm(700, generator=torch.Generator().manual_seed(2))[:350]
    store.write(written, rows.rows(written))
    request = nc.messages.Request(rows.queries, rows.score, torch.arange(5), rows.exclude)
    return scored_rows(request, store)


CASES = {
    "float32": table_of,
    "bfloat16": lambda: table_of(dtype=torch.bfloat16),
    "float16": lambda: table_of(dtype=torch.float16),
    "float64 rows": lambda: table_of(dtype=torch.float64),
    "one query": lambda: table_of(queries=1),
    "two tiles of queries": lambda: table_of(queries=70, rows=300),
    "whole blocks": lambda: table_of(rows=512, dims=64),
    "less than a block": lambda: table_of(rows=100, dims=3),
    "one dimension": lambda: table_of(dims=1),
    "a small scale": lambda: table_of(scale=0.01),
    "a large scale": lambda: table_of(scale=300.0),
    "holes": with_holes,
    "weights": with_weights,
    "spread out": spread_out,
    "a store": of_store,
    "a view": lambda: BlockView(700, torch.tensor([0, 2, 5]), 0.5).of(with_weights()),
    "rows without a way": lambda: replace(table_of(), masses=lambda rows: None),
}


def made(rows):
    scanned, random = scan(rows), torch.Generator().manual_seed(3)
    noise = torch.rand(len(rows.queries), 40, 2, dtype=torch.float64, generator=random)
    return Made(scanned.log_masses, *draw_rows(rows, scanned, noise))


def main(file):
    gpu_masses.DEVICES.add("cpu")
    found = {}
    for name, case in CASES.items():
        found[name] = made(case())
        assert torch.equal(found[name].masses, gpu_masses.gpu_masses(case())), "scan went by it"
    gpu_masses.HELD = 3 * 128 * 45
    found["weights, two chunks"] = made(with_weights())
    torch.save({name: tuple(each) for name, each in found.items()}, file)


if __name__ == "__main__":
    main(sys.argv[1])
