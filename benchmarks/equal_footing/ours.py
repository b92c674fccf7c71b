"""Our methods, each with the setting that matters most."""

import negcache as nc
from benchmarks.equal_footing.objectives import Contender, Objective, Ours, Setup
from benchmarks.retrieval import log_popularity


def _store(setup: Setup) -> nc.DenseCache:
    problem = setup.problem
    rho = min(1.0, setup.batch / len(problem.items))
    return nc.DenseCache(len(problem.items), problem.dim, refresh=rho)


def auto(setup: Setup, refreshed: object) -> Objective:
    """As it comes; rows that a cache would refresh, as shares of the batch."""
    rows = int(float(str(refreshed)) * setup.batch)
    return Ours(setup, nc.samplers.Auto(setup.problem.task.corpus, refreshed=rows))


def shared(setup: Setup, each: object) -> Objective:
    """Cached draws that the batch shares, joined by its positives; draws per query."""
    inner = nc.CachedSoftmax(_store(setup), int(str(each)))
    return Ours(setup, nc.SharedDraws(inner, log_popularity=log_popularity(setup.problem.task)))


def published(setup: Setup, each: object) -> Objective:
    """Draws of each query for itself from the cached softmax, under the cache's own partition."""
    return Ours(setup, nc.CachedSoftmax(_store(setup), int(str(each))), nc.cached_partition)


def uniform(setup: Setup, each: object) -> Objective:
    """Uniform draws joined by the batch's positives; draws per query."""
    inner = nc.Uniform(setup.problem.task.corpus, int(str(each)))
    return Ours(setup, nc.SharedDraws(inner, log_popularity=log_popularity(setup.problem.task)))


def ance(setup: Setup, every: object) -> Objective:
    """Of each query's 200 best rows, of a snapshot that is some steps old, one."""
    problem = setup.problem
    refresh = nc.stores.Snapshot(int(str(every)))
    store = nc.DenseCache(len(problem.items), problem.dim, refresh=refresh)
    return Ours(setup, nc.samplers.StaleTopK(store, 1, depth=min(200, len(problem.items))))


METHODS = {
    "auto": Contender(auto, (0.5, 1.0)),
    "shared_cached": Contender(shared, (1, 4)),
    "published": Contender(published, (1, 4)),
    "uniform": Contender(uniform, (1, 4)),
    "ance": Contender(ance, (100, 400)),
}
