"""Our samplers of classes; draws per place. Kernels suit absolute softmaxes, which this is not."""

import negcache as nc
from benchmarks.equal_footing.regime import Contender
from benchmarks.equal_footing.sequences.objectives import Build, Objective, Ours, Setup
from negcache.interfaces import Sampler
from negcache.shapes import Tensor


def _with(build: Build | None, settings: tuple[int, int]) -> Contender:
    def made(setup: Setup, each: object) -> Objective:
        return Ours(setup, build, int(str(each)))

    return Contender(made, settings)


def _log_share(counts: Tensor) -> Tensor:
    return (counts / counts.sum()).log()


def _softmax(table: nc.LiveTable, each: int, counts: Tensor) -> Sampler:
    return nc.SharedDraws(nc.CachedSoftmax(table, each))


def _softmax_joined(table: nc.LiveTable, each: int, counts: Tensor) -> Sampler:
    return nc.SharedDraws(nc.CachedSoftmax(table, each), log_popularity=_log_share(counts))


def _popularity_joined(table: nc.LiveTable, each: int, counts: Tensor) -> Sampler:
    drawn = nc.Popularity(counts + 1, each, power=1.0)
    return nc.SharedDraws(drawn, log_popularity=_log_share(counts))


def _uniform(table: nc.LiveTable, each: int, counts: Tensor) -> Sampler:
    return nc.SharedDraws(nc.Uniform(table, each))


METHODS = {
    "default": _with(None, (4, 100)),
    "softmax_shared": _with(_softmax, (1, 4)),
    "softmax_joined": _with(_softmax_joined, (1, 4)),
    "popularity_joined": _with(_popularity_joined, (1, 4)),
    "uniform_shared": _with(_uniform, (1, 4)),
}
"""The head as it comes; draws that the batch shares, alone or joined by what it asks for."""
