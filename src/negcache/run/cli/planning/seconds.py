"""About how long a step takes: what is counted, at prices that are timed here in a moment."""

from collections.abc import Callable
from time import perf_counter
from typing import NamedTuple

import torch

from negcache.run.cli.planning.planned_run import PlannedRun
from negcache.run.cli.planning.work import Work
from negcache.samplers.step_costs import ITEM

ROWS, WIDTH, PARAMETERS, ROUNDS = 4096, 256, 1 << 20, 5
"""Of a pass over the cache, a tower's product and an optimizer's step that are timed; how often."""


class Prices(NamedTuple):
    """Seconds on this machine.

    Args:
        flop: for a multiplication or an addition in a product.
        pair: for the score of a query and a cached row, and its share of a softmax.
        parameter: for the gradient and the update of one.
    """

    flop: float
    pair: float
    parameter: float


class Seconds(NamedTuple):
    """Of one optimizer step, of one process."""

    towers: float
    draw: float
    scores: float
    optimizer: float


def seconds_of(planned: PlannedRun, work: Work, prices: Prices) -> Seconds:
    """What is counted of a step, at these prices.

    Args:
        planned: the run.
        work: of one of its steps.
        prices: as `timed` found them.
    """
    dim = planned.tower.dim
    looked_up = work.items_grad + work.queries + work.items_nograd
    return Seconds(
        towers=work.tower_flops * prices.flop + looked_up * ITEM,
        draw=work.draw_flops / (2 * dim) * prices.pair,
        scores=work.score_flops / (2 * dim) * prices.pair,
        optimizer=planned.towers * planned.tower.trained * prices.parameter,
    )


def timed(planned: PlannedRun, device: torch.device) -> Prices:
    """The prices of this machine: some small products, passes and steps are made.

    Args:
        planned: the run; its batch and its dimensions decide how fast a product is.
        device: that it will train on.
    """
    queries = torch.rand(planned.queries, planned.tower.dim, device=device)
    rows = torch.rand(ROWS, planned.tower.dim, device=device)
    texts, weight = (torch.rand(size, WIDTH, device=device) for size in (planned.queries, WIDTH))
    parameter = torch.nn.Parameter(torch.rand(PARAMETERS, device=device))
    optimizer = torch.optim.Adam([parameter], fused=True)

    def update() -> torch.Tensor:
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        return parameter[:1].detach()

    products = 2 * planned.queries * WIDTH * WIDTH
    return Prices(
        flop=_seconds(lambda: texts @ weight) / products,
        pair=_seconds(lambda: (queries @ rows.T).logsumexp(dim=1)) / (planned.queries * ROWS),
        parameter=_seconds(update) / PARAMETERS,
    )


def _seconds(work: Callable[[], torch.Tensor]) -> float:
    """The middle one of a few."""
    found = []
    for _ in range(ROUNDS):
        start = perf_counter()
        float(work().flatten()[0])  # waits for a GPU
        found.append(perf_counter() - start)
    return sorted(found)[ROUNDS // 2]
