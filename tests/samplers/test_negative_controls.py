"""The laws fail on samplers that are broken on purpose, each the way a public library was."""

import math

import pytest
import torch
from partition import log_prob
from roster import problem

import negcache as nc
from negcache.draws import draw as draw_from
from negcache.draws import use_columns
from negcache.messages import Draw
from negcache.ops.kernels import fourier
from negcache.testing.conformance import check_sampler


class Broken:
    """A cached sampler whose draw is spoilt afterwards."""

    has_density = True
    store = None

    def __init__(self, store, spoil):
        self.inner, self.spoil = nc.CachedSoftmax(store, 6), spoil

    def draw(self, request, generator):
        return self.spoil(self.inner.draw(request, generator), request, self.inner.store)

    coverage, num_negatives = 1.0, 6

    def log_prob(self, request, ids, law=None):
        return self.inner.log_prob(request, ids, law)


def keep_the_positive(draw, request, store):
    drawn = draw.ids[draw.columns].clone()
    drawn[:, 0] = request.positives
    return use_columns(drawn, draw.log_weight, draw.log_z, draw.log_share)


def wrong_sign(draw, request, store):
    return Draw(draw.ids, draw.columns, -draw.log_weight, draw.log_z, draw.log_share)


def forget_the_number_of_draws(draw, request, store):
    weight = draw.log_weight + math.log(6)
    return Draw(draw.ids, draw.columns, weight, draw.log_z, draw.log_share)


def mix_the_rows(draw, request, store):
    return Draw(draw.ids, draw.columns.roll(1, 0), draw.log_weight.roll(1, 0))


def weights_with_gradient(draw, request, store):
    return Draw(draw.ids, draw.columns, draw.log_weight.clone().requires_grad_())


def noise_of_its_own(draw, request, store):
    drawn = draw.ids[draw.columns]
    swap = torch.rand(drawn.shape) < 0.5
    return use_columns(torch.where(swap, drawn.roll(1, 1), drawn), draw.log_weight.roll(1, 1))


@pytest.mark.parametrize(
    ("spoil", "law"),
    [
        (keep_the_positive, "positives never count"),
        (wrong_sign, r"w = -log\(m q\)"),
        (forget_the_number_of_draws, r"w = -log\(m q\)"),
        (mix_the_rows, "positives never count|w = -log"),
        (weights_with_gradient, "no gradient"),
        (noise_of_its_own, "equal generators|w = -log"),
    ],
)
def test_a_broken_draw_is_caught(spoil, law):
    request, items, store = problem()
    with pytest.raises(AssertionError, match=law):
        check_sampler(Broken(store, spoil), request, items)


class UniformThatClaimsSoftmax(Broken):
    """Samples uniformly but reports the softmax: the fault of public RF-softmax code."""

    def __init__(self, store):
        super().__init__(store, lambda draw, *_: draw)
        self.uniform = nc.Uniform(store, 6)

    def draw(self, request, generator):
        drawn = self.uniform.draw(request, generator)
        items = drawn.ids[drawn.columns]
        log_q = log_prob(self, request, drawn.ids).gather(1, drawn.columns)
        return use_columns(items, -log_q - math.log(6))


def test_draws_that_do_not_follow_the_reported_law_are_caught():
    request, items, store = problem()
    with pytest.raises(AssertionError, match="draws follow the reported law"):
        check_sampler(UniformThatClaimsSoftmax(store), request, items)


def test_a_biased_partition_is_caught():
    request, items, store = problem()
    plain = nc.SharedDraws(nc.Uniform(store, 6))

    class Unweighted:
        has_density = False
        store = None

        def draw(self, request, generator):
            draw = draw_from(plain, request, generator)
            masked = draw.log_weight == -torch.inf
            return Draw(
                draw.ids, None, torch.zeros_like(draw.log_weight).masked_fill(masked, -torch.inf)
            )

    with pytest.raises(AssertionError, match="unbiased"):
        check_sampler(Unweighted(), request, items)


def test_noise_that_ignores_the_place_in_the_batch_is_caught():
    request, items, store = problem()

    class LocalNoise(Broken):
        def draw(self, request, generator):
            alone = nc.messages.Request(request.queries, request.score, request.positives, request.exclude)
            return self.inner.draw(alone, generator)

    with pytest.raises(AssertionError, match="two processes draw what one draws"):
        check_sampler(LocalNoise(store, lambda draw, *_: draw), request, items)


class ZeroRowsValid(nc.DenseCache):
    """Every row counts from the start, as in the public code: zeros are negatives."""

    @property
    def valid(self):
        return torch.ones(len(self), dtype=torch.bool)


def test_a_cache_whose_unwritten_rows_are_valid_is_caught():
    with pytest.raises(AssertionError, match="never written is not valid"):
        check_store(lambda: ZeroRowsValid(37, 3, rho=0.1), 0.1)


def test_a_sampler_that_draws_unwritten_rows_is_caught():
    request, items, _ = problem()
    stores = [
        kind(len(items), items.shape[1], dtype=torch.float64)
        for kind in (nc.DenseCache, ZeroRowsValid)
    ]
    for store in stores:
        store.write(torch.arange(100), items[:100])
    check_sampler(nc.CachedSoftmax(stores[0], 6), request, items, unbiased=False)
    broken = Broken(stores[0], lambda draw, *_: draw)
    broken.store, broken.inner = stores[0], nc.CachedSoftmax(stores[1], 6)
    with pytest.raises(AssertionError, match="rows never written"):
        check_sampler(broken, request, items, unbiased=False)


class UnclippedReport:
    """Random features drawn with clipped masses, reported by the closed form without the clip."""

    has_density, store, coverage, num_negatives = True, None, 1.0, 6

    def __init__(self, store):
        self.inner = nc.samplers.KernelSoftmax(store, 6, fourier(8, 2, 3.0))
        self.table = store.table.embeddings

    def draw(self, request, generator):
        draw = self.inner.draw(request, generator)
        items = draw.ids[draw.columns]
        log_q = log_prob(self, request, draw.ids).gather(1, draw.columns)
        return use_columns(items, -log_q - math.log(6))

    def log_prob(self, request, ids, law=None):
        kernel = self.inner.kernel
        features = kernel.query_features(request.queries, request.score.scale)
        mass = features @ kernel.item_features(self.table).T
        mass = mass.clamp_min(1e-6).masked_fill(request.exclude.mask(torch.arange(len(mass.T))), 0)
        return (mass / mass.sum(1, keepdim=True)).log()[:, ids]


class FrequenciesDrawnAnew:
    """Random frequencies redrawn between two calls, as in public RF-softmax code."""

    has_density, store, coverage, num_negatives = True, None, 1.0, 6

    def __init__(self, store):
        self.base, self.calls = store, 0

    def _sampler(self):
        self.calls += 1
        return nc.samplers.KernelSoftmax(self.base, 6, fourier(8, 4, 3.0, seed=self.calls))

    def draw(self, request, generator):
        return self._sampler().draw(request, generator)

    def log_prob(self, request, ids, law=None):
        return self._sampler().log_prob(request, ids, law)


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (UnclippedReport, r"w = -log\(m q\)|reported law|finite or -inf"),
        (FrequenciesDrawnAnew, r"w = -log\(m q\)|equal generators"),
    ],
)
def test_kernel_samplers_broken_as_public_ones_are_caught(kind, law):
    request, items, store = problem()
    with pytest.raises(AssertionError, match=law):
        check_sampler(kind(store), request, items)
