"""The laws fail on samplers that are broken on purpose, each the way a public library was."""

import math
from dataclasses import replace

import pytest
import torch
from roster import problem

import negcache as nc
from negcache.draws import use_columns
from negcache.interfaces import Proposal
from negcache.messages import Draw
from negcache.ops.kernels import fourier
from negcache.testing.conformance import check_sampler, check_store


class Broken:
    """A cached sampler whose proposal is spoilt on the way out."""

    has_density, num_negatives = True, 6

    def __init__(self, store, spoil):
        self.inner, self.store, self.spoil = nc.CachedSoftmax(store, 6), store, spoil

    def propose(self, request, generator):
        return self.spoil(self.inner.propose(request, generator), request)


def spoil_draws(change):
    """(slots, log q, request) -> what is given out in their place."""

    def spoil(proposal, request):
        def draw(noise):
            return change(*proposal.draw(noise), request)

        return replace(proposal, draw=draw)

    return spoil


@spoil_draws
def wrong_sign(slots, log_q, request):
    return slots, -log_q


@spoil_draws
def propose_the_positive(slots, log_q, request):
    return torch.cat([request.positives[:, None], slots[:, 1:]], dim=1), log_q


def propose_the_positive_to_be_looked_up(proposal, request):
    return replace(propose_the_positive(proposal, request), leaves_out=False)


@spoil_draws
def mix_the_rows(slots, log_q, request):
    return slots.roll(1, 0), log_q.roll(1, 0)


@spoil_draws
def chances_of_other_draws(slots, log_q, request):
    return slots, log_q.roll(1, 1)


@spoil_draws
def chances_with_gradient(slots, log_q, request):
    return slots, log_q.clone().requires_grad_()


@spoil_draws
def noise_of_its_own(slots, log_q, request):
    swap = torch.rand(slots.shape) < 0.5
    return torch.where(swap, slots.roll(1, 1), slots), log_q.roll(1, 1)


@spoil_draws
def fewer_draws_than_said(slots, log_q, request):
    return slots[:, :3], log_q[:, :3]


def forget_the_coverage(proposal, request):
    return replace(proposal, coverage=0.5)


@pytest.mark.parametrize(
    ("spoil", "law"),
    [
        (wrong_sign, r"w = -log\(m q\)"),
        (propose_the_positive, "positives never count"),
        (propose_the_positive_to_be_looked_up, "probability 0 are never drawn"),
        (mix_the_rows, "w = -log"),
        (chances_of_other_draws, r"w = -log\(m q\)"),
        (chances_with_gradient, "no gradient"),
        (noise_of_its_own, "equal generators|w = -log"),
        (fewer_draws_than_said, "num_negatives draws"),
        (forget_the_coverage, "unbiased"),
    ],
)
def test_a_broken_proposal_is_caught(spoil, law):
    request, items, store = problem()
    with pytest.raises(AssertionError, match=law):
        check_sampler(Broken(store, spoil), request, items)


class BrokenDraw:
    """A sampler without density whose draw is spoilt afterwards."""

    has_density, store = False, None

    def __init__(self, store, spoil):
        self.inner, self.spoil = nc.samplers.CachedDistinct(store, 6), spoil

    def draw(self, request, generator):
        return self.spoil(self.inner.draw(request, generator), request)


def keep_the_positive(draw, request):
    drawn = draw.ids[draw.columns].clone()
    drawn[:, 0] = request.positives
    return use_columns(drawn, draw.log_weight)


def forget_the_number_of_draws(draw, request):
    return replace(draw, weight=draw.log_weight + math.log(6))


def weights_with_gradient(draw, request):
    return replace(draw, weight=draw.log_weight.clone().requires_grad_())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("spoil", "law"),
    [
        (keep_the_positive, "positives never count"),
        (forget_the_number_of_draws, "unbiased"),
        (weights_with_gradient, "no gradient"),
    ],
)
def test_a_broken_draw_is_caught(spoil, law):
    request, items, store = problem()
    with pytest.raises(AssertionError, match=law):
        check_sampler(BrokenDraw(store, spoil), request, items)


class UniformThatClaimsSoftmax(Broken):
    """Samples uniformly but reports the softmax: the fault of public RF-softmax code."""

    def __init__(self, store):
        super().__init__(store, self.draw_uniformly)
        self.uniform = nc.Uniform(store, 6)

    def draw_uniformly(self, proposal, request):
        uniform = self.uniform.propose(request, torch.Generator())

        def draw(noise):
            ids, _ = uniform.draw(noise)
            return ids, torch.stack([proposal.log_prob(row)[i] for i, row in enumerate(ids)])

        return replace(proposal, draw=draw)


def test_draws_that_do_not_follow_the_reported_law_are_caught():
    request, items, store = problem()
    with pytest.raises(AssertionError, match="draws follow the reported law"):
        check_sampler(UniformThatClaimsSoftmax(store), request, items)


@pytest.mark.usefixtures("unchecked")
def test_a_biased_partition_is_caught():
    request, items, store = problem()
    plain = nc.SharedDraws(nc.Uniform(store, 6))

    class Unweighted:
        has_density, store = False, None

        def draw(self, request, generator):
            draw = plain.draw(request, generator)
            weight = draw.log_weight.where(draw.log_weight == -torch.inf, 0.0)
            return Draw(draw.ids, None, weight)

    with pytest.raises(AssertionError, match="unbiased"):
        check_sampler(Unweighted(), request, items)


def test_noise_that_ignores_the_place_in_the_batch_is_caught():
    """Each process draws as if its part of the batch were all of it."""

    class LocalNoise(Broken):
        def propose(self, request, generator):
            alone = replace(request, first_row=0, total_rows=None)
            proposal, noise = self.inner.propose(alone, generator), alone.noise(generator)
            return replace(proposal, draw=lambda _: proposal.draw(noise))

    request, items, store = problem()
    with pytest.raises(AssertionError, match="two processes draw what one draws"):
        check_sampler(LocalNoise(store, None), request, items)


class ZeroRowsValid(nc.DenseCache):
    """Every row counts from the start, as in the public code: zeros are negatives."""

    @property
    def valid(self):
        return torch.ones(len(self), dtype=torch.bool)


def test_a_cache_whose_unwritten_rows_are_valid_is_caught():
    with pytest.raises(AssertionError, match="never written is not valid"):
        check_store(lambda: ZeroRowsValid(37, 3, refresh=0.1), 0.1)


def test_a_sampler_that_draws_unwritten_rows_is_caught():
    request, items, _ = problem()
    stores = [
        kind(len(items), items.shape[1], dtype=torch.float64)
        for kind in (nc.DenseCache, ZeroRowsValid)
    ]
    for store in stores:
        store.write(torch.arange(100), items[:100])
    check_sampler(nc.CachedSoftmax(stores[0], 6), request, items, unbiased=False)
    broken = Broken(stores[1], lambda proposal, _: replace(proposal, store=stores[0]))
    broken.store = stores[0]
    with pytest.raises(AssertionError, match="rows never written"):
        check_sampler(broken, request, items, unbiased=False)


class UnclippedReport:
    """Random features drawn with clipped masses, reported by the closed form without the clip."""

    has_density, store, num_negatives = True, None, 6

    def __init__(self, store):
        self.inner = nc.samplers.KernelSoftmax(store, 6, fourier(8, 2, 3.0))
        self.table = store.table.embeddings

    def propose(self, request, generator):
        proposal, kernel = self.inner.propose(request, generator), self.inner.kernel
        features = kernel.query_features(request.queries, request.score.scale)
        mass = features @ kernel.item_features(self.table).T
        mass = mass.clamp_min(1e-6).masked_fill(request.exclude.mask(torch.arange(len(mass.T))), 0)
        log_q = (mass / mass.sum(1, keepdim=True)).log()

        def draw(noise):
            slots, _ = proposal.draw(noise)
            return slots, log_q.gather(1, slots)

        return Proposal(draw, lambda ids: log_q[:, ids])


class FrequenciesDrawnAnew:
    """Random frequencies redrawn between two calls, as in public RF-softmax code."""

    has_density, store, num_negatives = True, None, 6

    def __init__(self, store):
        self.base, self.calls = store, 0

    def _proposal(self, request, generator):
        self.calls += 1
        kernel = fourier(8, 4, 3.0, seed=self.calls)
        return nc.samplers.KernelSoftmax(self.base, 6, kernel).propose(request, generator)

    def propose(self, request, generator):
        drawn_by, reported = (self._proposal(request, generator) for _ in range(2))
        return Proposal(drawn_by.draw, reported.log_prob)


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
