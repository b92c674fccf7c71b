"""Ask a loss how good its negatives are."""

import math
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import Protocol, runtime_checkable

import torch

from negcache.admission import admit
from negcache.diagnosis.advice import advise
from negcache.diagnosis.asked import Asked, mass_of, request_of, suspects_of
from negcache.diagnosis.checks import check_loss
from negcache.diagnosis.choices import other_choices, outlook_of
from negcache.diagnosis.coverage import Covered, on_coverage
from negcache.diagnosis.exact import Exact, exact
from negcache.diagnosis.items import FreshItems, ItemSample
from negcache.diagnosis.laws import Distance, Law, distance
from negcache.diagnosis.repeats import Repeated, repeat
from negcache.diagnosis.report import Diagnosis
from negcache.diagnosis.settings import Beside, Settings
from negcache.diagnosis.staleness import AgeBin, by_age, row_errors
from negcache.diagnosis.summary import report_of
from negcache.diagnosis.variants import Variant, variants
from negcache.draws import draw
from negcache.encoder import Progress
from negcache.estimators import log_q_corrected
from negcache.exclusion import Exclusion
from negcache.interfaces import Estimator, Sampler
from negcache.learning import learns
from negcache.losses import SoftmaxLoss
from negcache.messages import Request
from negcache.shapes import Float, Int, Tensor

WIDE = 16
"""Items that a draw names for each query, at most, to be counted for certain in a sample."""


@runtime_checkable
class Aging(Protocol):
    """A store that knows how old its rows are."""

    def ages(self) -> Tensor:
        """Optimizer steps since each row was last written, [S]."""
        ...


def diagnose(
    loss_fn: SoftmaxLoss,
    queries: Float[Tensor, "Q D"],
    positives: Int[Tensor, "Q *p"],
    query_ids: Int[Tensor, "Q"] | None = None,
    *,
    settings: Settings | None = None,
    beside: Beside | None = None,
    progress: Progress = iter,
) -> Diagnosis:
    """How far the gradient of a loss' draws is from that of the softmax over all items.

    Everything is encoded afresh, without dropout; draws have a generator of their own. Modes,
    weights, store, noise and report of the loss are afterwards what they were.

    Args:
        loss_fn: as it stands between two steps.
        queries: outputs of the query tower, in evaluation mode.
        positives: target items of each, as in training.
        query_ids: rows of ``known_positives``; needed when that was given.
        settings: None: 32 repeats, all queries as one batch, all items.
        beside: other samplers, and what else is known; None: nothing.
        progress: wraps iterables to show how far they are, as ``tqdm`` does.

    Raises:
        InputError: no batch, an empty store, a store that processes share, or a stream none of
            whose items ``beside`` names; ids or dimensions that do not fit.

    Examples:
        >>> import negcache as nc
        >>> corpus = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
        >>> loss_fn = nc.SoftmaxLoss(torch.nn.Identity(), corpus, nc.Uniform(corpus, 5))
        >>> found = diagnose(loss_fn, corpus[:8], torch.arange(8))
        >>> found.num_items, found.samplers[0].name, found.samplers[0].query.sd > 0
        (50, 'own', True)
    """
    settings, beside = settings or Settings(), beside or Beside()
    check_loss(loss_fn, beside)
    known = loss_fn.known_positives is not None
    positives, ids, _ = admit(queries, positives, query_ids, None, len(loss_fn.corpus), known)
    rows = loss_fn.score.embed(queries.detach()).detach()
    return _Diagnosed(loss_fn, settings, beside, progress).run(rows, positives, ids)


class _Diagnosed:
    """One diagnosis under way."""

    def __init__(
        self, loss_fn: SoftmaxLoss, settings: Settings, beside: Beside, progress: Progress
    ) -> None:
        self.loss_fn, self.settings, self.beside = loss_fn, settings, beside
        self.progress, self.seconds = progress, defaultdict[str, float](float)
        self.samplers: dict[str, tuple[Sampler, Estimator]] = {
            beside.own: (_at_rest(loss_fn.sampler), loss_fn.estimator)
        }
        for name, sampler in beside.samplers.items():
            self.samplers[name] = _at_rest(sampler), beside.estimators.get(name, log_q_corrected)
        stream = beside.items
        self.num_items = len(loss_fn.corpus) if stream is None else len(stream.ids)
        self.items = FreshItems(loss_fn.encoder, self.num_items, loss_fn.device, stream)
        self.variants: dict[str, Variant] = {}
        self.found = defaultdict[str, list[Repeated]](list)
        self.distances = defaultdict[str, list[Distance]](list)
        self.truths: list[Exact] = []
        self.covered = Covered(loss_fn.store, beside.recent, self.num_items)
        self.suspected = {name: list[Tensor]() for name in beside.suspects}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[part] += perf_counter() - start

    def run(self, queries: Tensor, positives: Tensor, query_ids: Tensor | None) -> Diagnosis:
        size = min(self.settings.batch_size or len(queries), len(queries))
        batches = []
        for first in range(0, len(queries) - size + 1, size):
            some = slice(first, first + size)
            ids = None if query_ids is None else query_ids[some]
            request = request_of(self.loss_fn, queries[some], positives[some], ids)
            batches.append((request, suspects_of(self.beside.suspects, request, ids)))
        sample = self._sample([request for request, _ in batches])
        with self.timed("encode items"):
            self.items.encode(self._wanted(sample), self.progress)
            sample = sample.only(self.items.there(sample.ids))
        self._vary(sample)
        asked = None
        for (request, suspects), name in self.progress(
            [(batch, name) for batch in batches for name in (None, *self.samplers)]
        ):
            if asked is None or name is None:
                asked = self._ask(request, suspects, sample)
            else:
                self._repeat(name, asked)
        return self._report(size, sample)

    def _vary(self, sample: ItemSample) -> None:
        """Measure variants of the loss' own sampler too."""
        if not self.settings.advise:
            return
        own, estimator = self.samplers[self.beside.own]
        items = self.items if sample.is_all else None
        count = self.num_items if self.beside.items is None else None
        changed = [
            *variants(own, count, self.beside.partners, items),
            *other_choices(own, items, sample.ids),
        ]
        for each in changed:
            name = f"{self.beside.own}: {each.change}"
            fits = estimator if each.kind != "uniform" else log_q_corrected
            self.samplers[name], self.variants[name] = (each.sampler, fits), each

    def _sample(self, requests: list[Request]) -> ItemSample:
        """Of all items, or of so many beside those that are likely to count."""
        count, device = self.settings.items, self.loss_fn.device
        if count is None:
            return ItemSample.of_all(self.num_items, device, self.items.ids)
        generator = torch.Generator().manual_seed(self.settings.seed + 1)
        certain = [request.targets for request in requests]
        for request in requests:
            for sampler, _ in self.samplers.values():
                drawn = draw(sampler, request, generator).ids
                if len(drawn) <= WIDE * len(request.queries):
                    certain.append(drawn)
        every = torch.arange(self.num_items) if self.items.ids is None else self.items.ids
        return ItemSample.drawn(every, count, torch.cat(certain), generator)

    def _wanted(self, sample: ItemSample) -> Tensor:
        """Of a stream, whose items are read in one pass, with those that new batches may bring."""
        partners = self.beside.partners
        if self.beside.items is None or partners is None:
            return sample.ids
        return torch.cat([sample.ids, partners.to(sample.ids.device)])

    def _ask(self, request: Request, suspects: dict[str, Exclusion], sample: ItemSample) -> Asked:
        with self.timed("exact softmax"):
            truth = exact(request, self.items, sample)
        for name, table in suspects.items():
            self.suspected[name].append(mass_of(table, request, truth.log_z, self.items))
        self.truths.append(truth)
        with self.timed("coverage"):
            self.covered.add(request, truth.log_z, self.items, sample)
        return Asked(request, self.items, sample, truth, self.beside.partners, suspects)

    def _repeat(self, name: str, asked: Asked) -> None:
        sampler, estimator = self.samplers[name]
        generator = torch.Generator().manual_seed(self.settings.seed + len(self.found[name]))
        law, far = Law.of(sampler, asked.request, generator), None
        if law is not None:
            self.distances[name].append(self._distance(name, law, asked))
            far = law, self.distances[name][-1]
        with self.timed(f"draws of {name}"):
            found = repeat(sampler, estimator, asked, self.settings.repeats, generator, far)
            if self.beside.items is not None and sampler.store is not None:
                found = replace(found, tells=False)
            self.found[name].append(found)

    def _distance(self, name: str, law: Law, asked: Asked) -> Distance:
        if name in self.variants and not self.variants[name].has_own_law:
            return self.distances[self.beside.own][-1]
        with self.timed("laws"):
            place = asked.items, asked.sample
            return distance(law, asked.request, asked.truth.log_z, *place)

    def _ages(self, sample: ItemSample) -> list[AgeBin]:
        store = self.loss_fn.store
        if store is None or store.is_live or not isinstance(store, Aging):
            return []
        with self.timed("staleness"):
            errors = row_errors(store, sample.ids, self.items)
        slots = store.slots(sample.ids).clamp_min(0)
        return by_age(store.ages()[slots].to(errors.device), errors)

    def _report(self, size: int, sample: ItemSample) -> Diagnosis:
        truths = self.truths
        whole = sum(float(each.queries.square().sum()) for each in truths)
        error = sum(each.query_error for each in truths)
        entropies = torch.cat([each.entropy for each in truths])
        reports = {
            name: report_of(
                name,
                self.found[name],
                self.distances[name],
                sampler.store,
                query_error=error,
                outlook=outlook_of(sampler, size),
            )
            for name, (sampler, _) in self.samplers.items()
        }
        measured = {name: (each, reports[name]) for name, each in self.variants.items()}
        own, by_rows = reports[self.beside.own], self.covered.by_rows(sample)
        return Diagnosis(
            own=self.beside.own,
            queries=size * len(truths),
            batch_size=size,
            num_items=sample.num_items,
            sampled=len(sample.ids),
            loss=float(torch.cat([each.losses for each in truths]).mean()),
            softmax_items=float(entropies.mean().exp()),
            truth_error=math.sqrt(error / whole) if whole else math.nan,
            softmax_false_negatives={
                name: float(torch.cat(each).mean()) for name, each in self.suspected.items()
            },
            samplers=list(reports.values()),
            advice=[*on_coverage(own, by_rows), *advise(own, measured)],
            ages=self._ages(sample),
            seconds=dict(self.seconds),
            coverage=self.covered.now(sample),
            coverage_by_rows=by_rows,
        )


def _at_rest(sampler: Sampler) -> Sampler:
    return sampler.at_rest() if learns(sampler) else sampler
