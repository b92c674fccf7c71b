"""Bytes of an evaluation: every query, and some of the items at a time."""

from negcache.run.cli.planning.planned_run import PlannedRun
from negcache.run.evaluation.encode import CHUNK
from negcache.run.evaluation.metrics import DEPTH
from negcache.run.evaluation.search import BLOCK

FLOAT, INT = 4, 8


def evaluation_bytes(planned: PlannedRun) -> int:
    """Queries with the best items of each, a chunk of the items and its scores; no more items."""
    here = -(-planned.searched // planned.processes)
    queries, dim, chunk = planned.facts.asked, planned.tower.dim, min(CHUNK, here)
    best = min(DEPTH, here) * (FLOAT + INT)
    return queries * (dim * FLOAT + best) + chunk * FLOAT * (dim + min(BLOCK, queries))
