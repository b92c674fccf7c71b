"""Laws that every sampler, cache and estimator obeys. Run them on your own.

Each check raises ``AssertionError`` naming the law that is broken. Statistical laws use fixed
seeds and wide margins (chi-square p > 1e-4, |z| < 4.5): a failing seed is a finding.
"""

import math
from collections.abc import Callable
from functools import partial

import torch

from negcache.draws import draw as draw_from
from negcache.draws import propose
from negcache.estimators import softmax_loss
from negcache.exclusion import Exclusion
from negcache.interfaces import DensitySampler, Estimator, Sampler, Store
from negcache.messages import Draw, Request
from negcache.score import DotScore, Score
from negcache.shapes import Float, Int, Tensor
from negcache.stores.reading import embeddings
from negcache.testing import reference


def check_sampler(
    sampler: Sampler,
    request: Request,
    items: Float[Tensor, "N D"],
    *,
    unbiased: bool = True,
    seed: int = 0,
    rounds: int = 200,
) -> None:
    """Every law of samplers, on one request.

    Args:
        request: a few queries with exclusions of different lengths; float64 is best.
        items: fresh embeddings of all items, as the partition function should see them.
        unbiased: whether the draw claims E[sum exp(s + w)] = Z-.
        seed: of the draws.
        rounds: repeats of the tiled request in the statistical laws.
    """
    first = draw_from(sampler, request, torch.Generator().manual_seed(seed))
    _check_form(first, request, len(items))
    _check_positives_never_count(first, request)
    again = draw_from(sampler, request, torch.Generator().manual_seed(seed))
    assert torch.equal(_drawn(first), _drawn(again)), "equal generators give equal draws"
    if sampler.has_density:
        assert isinstance(sampler, DensitySampler), "has_density promises propose"
        _check_density(sampler, first, request, len(items), seed)
        _check_place_in_the_batch(sampler, first, request, seed)
        _check_frequencies(sampler, request, len(items), seed, rounds)
    if unbiased:
        _check_partition(sampler, request, items, seed, rounds)


def check_store(build: Callable[[], Store], rho: float, rounding: float = 0.0) -> None:
    """Every law of stores, on fresh ones with D = 3 built with this refresh fraction.

    Args:
        rounding: how far an entry that is read may be from what was written, relative to the
            largest of its row; 0: not at all, once it is of the type that is read.
    """
    store = build()
    assert not store.valid.any(), "a row never written is not valid"
    num_items, held = store.num_items, store.ids(torch.arange(store.num_rows))
    assert len(held.unique()) == len(held), "an item has one slot"
    assert torch.equal(store.slots(held), torch.arange(store.num_rows)), "slots and ids agree"
    assert abs(store.coverage - len(held) / num_items) < 1e-12, "coverage is the share held"
    rows = torch.randn(num_items, 3, requires_grad=True)
    store.write(torch.arange(num_items), rows)
    stored, seen = store.rows(store.slots(held)), embeddings(store, store.slots(held))
    assert not stored.requires_grad, "a store holds no gradient"
    wanted = rows.detach()[held].to(seen.dtype)
    most = 1.001 * rounding * wanted.abs().amax(dim=1, keepdim=True)
    assert ((seen - wanted).abs() <= most).all(), "rows come back as written"
    store.write(held, seen)
    assert torch.allclose(store.rows(store.slots(held)), stored), "rounding is done once"
    chunked = torch.cat([block for _, block in store.chunks(7)])
    assert torch.equal(chunked, stored), "chunks are the rows in order of slot"
    last_seen = torch.zeros(store.num_rows, dtype=torch.long)
    for step in range(1, 3 * int(1 / rho) + 1 if rho else 1):
        planned = store.plan()
        assert torch.equal(store.plan(), planned), "asking for the plan changes nothing"
        assert len(planned.unique()) == len(planned), "planned items are distinct"
        store.commit()
        store.write(planned, rows[planned])
        store.step()
        last_seen[store.slots(planned)] = step
        assert store.valid.all(), "planned items are valid once they are written"
        assert step - int(last_seen.min()) <= -(-1 // rho), "no row is older than ceil(1 / rho)"
    copy = build()
    copy.load_state_dict(store.state_dict())
    slots = torch.arange(store.num_rows)
    assert torch.equal(copy.rows(slots), store.rows(slots)), "state_dict holds the rows"
    assert torch.equal(copy.ids(slots), store.ids(slots)), "state_dict holds the items"
    assert torch.equal(copy.plan(), store.plan()), "state_dict holds the refresh"


def check_index(
    search: Callable[[Tensor, Tensor, Score, int], tuple[Tensor, Tensor]],
) -> None:
    """An exact index returns what a full sort returns, ties by the smaller id.

    Args:
        search: (queries [B, D], items [N, D], score, k) -> (scores [B, k], ids [B, k]), best first.
    """
    noise, score = torch.Generator().manual_seed(0), DotScore(normalize=False)
    small = partial(torch.randint, -3, 4, generator=noise, dtype=torch.float64)
    items, queries = small((400, 6)), small((7, 6))  # whole numbers: no rounding, ties everywhere
    truth = score(queries, items).sort(dim=1, descending=True, stable=True)
    for k in (1, 7, 400):
        scores, ids = search(queries, items, score, k)
        assert torch.allclose(scores, truth.values[:, :k]), "the k best scores, best first"
        assert torch.equal(ids, truth.indices[:, :k]), "their ids, ties by the smaller id"


def check_estimator(estimator: Estimator, logits: Float[Tensor, "B N"]) -> None:
    """With all negatives at their own weight an estimator is full softmax, value and gradient."""
    logits = logits.detach().double().requires_grad_()
    num_queries, num_items = logits.shape
    positives = torch.arange(num_queries) % num_items
    exclude = Exclusion.from_pairs(torch.arange(num_queries), positives, num_queries)
    masked = exclude.mask(torch.arange(num_items))
    with torch.no_grad():
        negatives = logits.masked_fill(masked, -torch.inf)
        log_z = torch.logsumexp(negatives, dim=1)
        draw = Draw(
            torch.arange(num_items),
            None,
            torch.zeros_like(logits).masked_fill(masked, -torch.inf),
            log_z,
            negatives - log_z[:, None],
        )
    positive = logits[torch.arange(num_queries), positives]
    loss = softmax_loss(positive, estimator(logits, draw)).sum()
    truth = torch.nn.functional.cross_entropy(logits, positives, reduction="sum")
    assert torch.allclose(loss, truth, atol=1e-10, rtol=0), "all negatives give cross-entropy"
    ours, exact = (torch.autograd.grad(x, logits)[0] for x in (loss, truth))
    assert torch.allclose(ours, exact, atol=1e-10, rtol=0), "and its gradient"


def chi_square_p(counts: Int[Tensor, "n"], expected: Float[Tensor, "n"]) -> float:
    """p-value of counts against expectations; small cells are merged to 20 expected or more."""
    order = expected.argsort()
    group = (expected[order].double().cumsum(0) / 20).floor().long()
    group = torch.unique(group, return_inverse=True)[1]
    seen = torch.zeros(int(group.max()) + 1, dtype=torch.float64)
    due = torch.zeros_like(seen)
    seen.index_add_(0, group, counts[order].double())
    due.index_add_(0, group, expected[order].double())
    keep = due > 0
    statistic = ((seen - due)[keep].square() / due[keep]).sum()
    freedom = torch.tensor(max(int(keep.sum()) - 1, 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2))


def tile(request: Request, times: int) -> Request:
    """The same queries again and again: more draws in one call."""
    rows = len(request.positives)
    shift = torch.arange(times).repeat_interleave(len(request.exclude.ids)) * rows
    exclude = Exclusion.from_pairs(
        request.exclude.rows.repeat(times) + shift, request.exclude.ids.repeat(times), rows * times
    )
    queries, positives = request.queries.repeat(times, 1), request.positives.repeat(times)
    return Request(queries, request.score, positives, exclude)


def _drawn(draw: Draw) -> Tensor:
    return draw.ids if draw.columns is None else draw.ids[draw.columns]


def _check_form(draw: Draw, request: Request, num_items: int) -> None:
    assert len(draw.ids.unique()) == len(draw.ids), "ids are distinct: each is encoded once"
    assert ((draw.ids >= 0) & (draw.ids < num_items)).all(), "ids are items"
    assert len(draw.log_weight) == len(request.positives), "a row of weights for every query"
    assert (draw.log_weight < torch.inf).all(), "weights are finite or -inf, never nan or inf"
    rest = (draw.rest.log_mass, draw.rest.mean, draw.rest.inclusion) if draw.rest else ()
    for field in (draw.log_weight, draw.log_z, draw.log_share, *rest):
        assert field is None or not field.requires_grad, "a draw carries no gradient"


def _check_positives_never_count(draw: Draw, request: Request) -> None:
    width = draw.log_weight.shape[1]
    rows = torch.arange(len(draw.log_weight))[:, None].expand(-1, width)
    alive = draw.log_weight > -torch.inf
    masked = request.exclude.contains(rows, _drawn(draw).expand(len(rows), width))
    assert not (alive & masked).any(), "positives never count as negatives"


def _check_density(
    sampler: DensitySampler, draw: Draw, request: Request, num_items: int, seed: int
) -> None:
    proposal = propose(sampler, request, torch.Generator().manual_seed(seed))
    log_q = proposal.log_prob(torch.arange(num_items))
    masked = request.exclude.mask(torch.arange(num_items))
    assert (log_q[masked] == -torch.inf).all(), "excluded items have probability 0"
    if sampler.store is not None and proposal.proposal.store is not None:
        never = sampler.store.ids((~sampler.store.valid).nonzero().squeeze(1))
        assert (log_q[:, never] == -torch.inf).all(), "rows never written have probability 0"
    total = log_q.exp().sum(dim=1)[~masked.all(dim=1)]
    assert (total < 1 + 1e-5).all(), "probabilities sum to 1, or less by the masked hits"
    expected = proposal.log_expected(torch.arange(num_items)).double().exp()
    summed = torch.logsumexp(log_q.double(), dim=0).exp()
    assert torch.allclose(expected, summed, rtol=1e-4, atol=1e-9), "expected counts sum chances up"
    assert draw.columns is not None, "a sampler with density draws for each query"
    assert draw.columns.shape[1] == sampler.num_negatives, "num_negatives draws for each query"
    own = log_q.gather(1, _drawn(draw))
    alive = draw.log_weight > -torch.inf
    wanted = -(own + math.log(own.shape[1]) + proposal.log_coverage(_drawn(draw)))
    assert torch.allclose(draw.log_weight[alive], wanted[alive], atol=1e-4), "w = -log(m q)"


def _check_place_in_the_batch(sampler: Sampler, whole: Draw, request: Request, seed: int) -> None:
    total, cut = len(request.positives), len(request.positives) // 2
    parts = []
    for lo, hi in ((0, cut), (cut, total)):
        part = Request(
            request.queries[lo:hi], request.score, request.positives[lo:hi],
            request.exclude.slice(lo, hi), lo, total,
        )  # fmt: skip
        parts.append(_drawn(draw_from(sampler, part, torch.Generator().manual_seed(seed))))
    assert torch.equal(torch.cat(parts), _drawn(whole)), "two processes draw what one draws"


def _check_frequencies(
    sampler: DensitySampler, request: Request, num_items: int, seed: int, rounds: int
) -> None:
    """Counts of every item, and of masked hits, against the laws that the draws report."""
    generator, rows = torch.Generator().manual_seed(seed), len(request.positives)
    counts = torch.zeros(rows, num_items + 1, dtype=torch.long)
    expected = torch.zeros(rows, num_items + 1, dtype=torch.float64)
    tiled, everything = tile(request, 50), torch.arange(num_items)
    for _ in range(max(1, rounds // 50)):
        proposal = propose(sampler, tiled, generator)
        ids, log_q = proposal.draw(tiled.noise(generator))
        drawn = torch.where(log_q > -torch.inf, ids, num_items).view(50, rows, -1)
        for row in range(rows):
            counts[row] += torch.bincount(drawn[:, row].flatten(), minlength=num_items + 1)
        law = proposal.log_prob(everything)[:rows].double().exp()
        hits = (1 - law.sum(dim=1, keepdim=True)).clamp_min(0)
        hits[hits < 1e-6] = 0  # rounding
        expected += torch.cat([law, hits], dim=1) * (50 * drawn.shape[2])
    assert (counts[expected == 0] == 0).all(), "items of probability 0 are never drawn"
    for row in range(rows):
        p = chi_square_p(counts[row], expected[row])
        assert p > 1e-4, f"draws follow the reported law (row {row}, p = {p:.1e})"


def _check_partition(
    sampler: Sampler, request: Request, items: Tensor, seed: int, rounds: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    estimates = []
    for _ in range(rounds):
        draw = draw_from(sampler, request, generator)
        logits = request.score(request.queries, items[draw.ids])
        if draw.columns is not None:
            logits = logits.gather(1, draw.columns)
        terms = logits + draw.log_weight
        if draw.rest is not None:
            terms = torch.cat([terms, draw.rest.log_mass[:, None]], dim=1)
        estimates.append(torch.logsumexp(terms, dim=1))
    truth = reference.log_partition(request, items)
    ratio = (torch.stack(estimates).double() - truth).exp()
    ratio = ratio[:, truth > -torch.inf]
    error = ratio.std(dim=0) / rounds**0.5 + 1e-6
    z = ((ratio.mean(dim=0) - 1) / error).abs().max()
    assert z < 4.5, f"the partition estimate is unbiased (|z| = {z:.1f})"
