"""Whether larger batches would see more queries in the same time."""

from typing import NamedTuple

from negcache.run.cli.planning.planned_run import PlannedRun
from negcache.samplers.step_costs import StepCosts

FACTORS = (2, 4, 8)
"""How many times as large a batch is thought of."""

LARGEST = 1024
"""Queries of a batch: beyond it nothing was tried."""

BATCHES = 50
"""Batches of all the training pairs that there have to be, at least."""

WORTH = 1.5
"""Times the queries in the same time that are worth another batch."""


class LargerBatch(NamedTuple):
    """A batch that is worth a trial.

    Args:
        queries: of it.
        dearer: times the cost of a step of the config.
        gain: times the queries in the same time.
    """

    queries: int
    dearer: float
    gain: float


def larger_batch(planned: PlannedRun) -> LargerBatch | None:
    """That with the most queries in the same time; None: none is worth a trial.

    By the counted costs that the automatic choice goes by, for the batch's positives alone: what a
    step costs whatever its batch is (the optimizer's pass over a table of token vectors, first of
    all) is shared by more queries.
    """
    here, most = planned.config.batch_size, min(LARGEST, planned.facts.num_pairs // BATCHES)
    found = []
    for factor in FACTORS:
        if (batch := factor * here) <= most:
            dearer = _cost(planned, batch) / _cost(planned, here)
            found.append(LargerBatch(batch, dearer, factor / dearer))
    best = max(found, key=lambda each: each.gain, default=None)
    return None if best is None or best.gain < WORTH else best


def _cost(planned: PlannedRun, batch: int) -> float:
    tower, facts = planned.tower, planned.facts
    flops = round(2 * tower.forward.of(facts.item_tokens))
    parameters = planned.towers * tower.trained
    queries = -(-batch // planned.processes)
    return StepCosts(queries, tower.dim, facts.num_items, flops, parameters).step(0)
