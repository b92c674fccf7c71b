"""Our methods, each with the setting that matters most."""

import negcache as nc
from benchmarks.equal_footing.regime import Contender
from benchmarks.equal_footing.texts.objectives import Objective, Ours, Setup, Streamed
from benchmarks.retrieval import log_popularity
from benchmarks.streaming import build as build_stream
from negcache.interfaces import Sampler


def _store(setup: Setup) -> nc.DenseCache:
    problem = setup.problem
    rho = min(1.0, setup.batch / len(problem.items))
    return nc.DenseCache(len(problem.items), problem.dim, refresh=rho)


def _shared(setup: Setup, sampler: Sampler) -> Objective:
    """Draws that the batch shares, joined by its positives."""
    return Ours(setup, nc.SharedDraws(sampler, log_popularity=log_popularity(setup.problem.task)))


def auto(setup: Setup, times: object) -> Objective:
    """As it comes; queries of a step, in batches of the others."""
    own = setup._replace(batch=min(int(str(times)) * setup.batch, len(setup.pairs)))
    return Ours(own, nc.samplers.Auto(setup.problem.task.corpus))


def shared(setup: Setup, each: object) -> Objective:
    """Cached draws that the batch shares; draws per query."""
    return _shared(setup, nc.CachedSoftmax(_store(setup), int(str(each))))


def published(setup: Setup, each: object) -> Objective:
    """Draws of each query for itself from the cached softmax, under the cache's own partition."""
    return Ours(setup, nc.CachedSoftmax(_store(setup), int(str(each))), nc.cached_partition)


def uniform(setup: Setup, each: object) -> Objective:
    """Uniform draws; draws per query."""
    return _shared(setup, nc.Uniform(setup.problem.task.corpus, int(str(each))))


def kernel(setup: Setup, each: object) -> Objective:
    """Draws by the quadratic kernel, through sums of cached rows; draws per query."""
    return _shared(setup, nc.quadratic(_store(setup), int(str(each))))


def dynamic_index(setup: Setup, each: object) -> Objective:
    """Draws by clusters of low-rank coordinates; draws per query."""
    problem = setup.problem
    store = nc.LowRankCache(
        len(problem.items), problem.dim, landmarks=problem.dim // 2, every=10,
        sample=setup.batch, seed=setup.seed,
    )  # fmt: skip
    return _shared(setup, nc.DynamicIndex(store, int(str(each))))


def ance(setup: Setup, every: object) -> Objective:
    """Of each query's 200 best rows, of a snapshot that is some steps old, one."""
    problem = setup.problem
    refresh = nc.stores.Snapshot(int(str(every)))
    store = nc.DenseCache(len(problem.items), problem.dim, refresh=refresh)
    return Ours(setup, nc.samplers.StaleTopK(store, 1, depth=min(200, len(problem.items))))


def streaming(setup: Setup, size: object) -> Objective:
    """A weighted cache of what came last, half a batch of items without queries beside; its size,
    as a share of the items."""
    return _streamed(setup, "dedup", size, beside=setup.batch // 2)


def public_code(setup: Setup, size: object) -> Objective:
    """The settings of the public negative_cache code: no weights, rows of zeros that are negatives,
    the query's own positive not masked, nothing but positives in the cache; its size."""
    return _streamed(setup, "public", size, beside=0)


def _streamed(setup: Setup, method: str, size: object, beside: int) -> Objective:
    problem = setup.problem
    rows = max(int(float(str(size)) * len(problem.items)), 2 * setup.batch)
    cache, sampler = build_stream(method, rows, problem.dim, len(problem.items))
    return Streamed(setup, cache, sampler, beside)


METHODS = {
    "auto": Contender(auto, (1, 8)),
    "shared_cached": Contender(shared, (1, 4)),
    "published": Contender(published, (1, 4)),
    "uniform": Contender(uniform, (1, 4)),
    "kernel": Contender(kernel, (1, 4)),
    "dynamic_index": Contender(dynamic_index, (1, 4)),
    "streaming": Contender(streaming, (0.25, 1.0)),
    "public_code": Contender(public_code, (0.25, 1.0)),
    "ance": Contender(ance, (100, 400)),
}
