"""Rows kept as int8: the laws of stores, and draws whose law is that of the rounded numbers."""

from dataclasses import replace
from functools import partial

import jaxtyping
import pytest
import torch
from roster import DIM, NUM_ITEMS, ROSTER, problem

import negcache as nc
from negcache.draws import propose
from negcache.exclusion import Exclusion
from negcache.messages import Request
from negcache.ops.quantized import quantize, rounded
from negcache.ops.shards import Shard
from negcache.ops.two_stage import scan
from negcache.stores import integer_masses
from negcache.stores.reading import scored_rows
from negcache.stores.table import RowTable
from negcache.testing.conformance import check_sampler, check_store

B, N = 5, 1_000
compiled = pytest.mark.skipif(
    not integer_masses.has_integer_products(torch.device("cpu")),
    reason="a processor that multiplies int8 numbers, and numba",
)


@pytest.mark.parametrize("rho", [0.0, 0.01, 1.0])
@pytest.mark.parametrize(
    "build", [partial(nc.DenseCache, 200, 3), partial(nc.SubsetCache, 100, 3, 40)]
)
def test_laws(rho, build):
    check_store(lambda: build(refresh=rho, dtype=torch.int8), rho, rounding=1 / 254)


def test_a_store_that_cuts_off_breaks_the_law(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "round_", torch.Tensor.trunc_)
    with pytest.raises(AssertionError, match="rows come back as written"):
        check_store(lambda: nc.DenseCache(200, 3, dtype=torch.int8), 0.01, rounding=1 / 254)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-42, 1e-30, 1.0, 1e30])
def test_an_entry_is_half_a_scale_off_at_most_and_rounding_is_done_once(dtype, size):
    rows = torch.randn(50, 16, dtype=dtype, generator=torch.Generator().manual_seed(0)) * size
    rows[7] = 0
    codes, scales = quantize(rows)
    assert codes.min() >= -127, "-128 is not used"
    kept = rounded(rows)
    coarse = 0 if size > 1e-40 or dtype == torch.float64 else 2e-43  # a denormal scale is coarse
    assert ((kept - rows).abs() <= 0.501 * scales[:, None] + coarse).all()
    assert (kept[7] == 0).all()
    assert coarse or torch.equal(quantize(kept).codes, codes)


def test_rows_without_a_largest_entry_are_refused():
    store, rows = nc.DenseCache(10, 3, dtype=torch.int8), torch.zeros(2, 3)
    rows[1, 2] = torch.inf
    with pytest.raises(nc.InputError, match=r"1 of 2 rows, ids \[8\]"):
        store.write(torch.tensor([4, 8]), rows)


def int8_problem(scale=20.0, seed=0, num_items=N, absolute=False):
    """Rows of unequal length, some of them zeros or never written; one query may draw nothing."""
    random = torch.Generator().manual_seed(seed)
    store = nc.DenseCache(num_items, 24, dtype=torch.int8)
    rows = torch.randn(num_items, 24, generator=random)
    rows *= 10 ** torch.randn(num_items, 1, generator=random).mul(0.2)
    rows[torch.arange(0, num_items, 17)] = 0
    rows /= rows.norm(dim=1).max()
    written = torch.randperm(num_items, generator=random)[: num_items * 2 // 3]
    written = written[(written < 256) | (written >= 384)]  # a block of which nothing is there
    store.write(written, rows[written])
    queries = torch.nn.functional.normalize(torch.randn(B, 24, generator=random), dim=1)
    pairs = torch.randint(0, num_items, (60,), generator=random)
    exclude = Exclusion.from_pairs(torch.arange(60) % B, pairs, B)
    every = torch.arange(num_items)
    exclude = exclude.and_also(torch.full_like(every, 3), every)
    score = nc.DotScore(1 / scale, absolute=absolute).requires_grad_(False)
    return store, Request(queries, score, pairs[:B], exclude)


def law(store, request):
    """log of the softmax, in float64, of the scores of rounded queries and rounded rows."""
    every = torch.arange(len(store))
    rows, scale = store.rows(every).double(), request.score.scale.double()
    logits = rounded(request.queries).double() @ rows.T * scale
    logits = logits.abs() if request.score.absolute else logits
    masked = request.exclude.mask(every) | ~store.valid
    return (
        logits.masked_fill(masked, -torch.inf)
        .log_softmax(dim=1)
        .nan_to_num(-torch.inf, neginf=-torch.inf)
    )


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("scale", [1.0, 20.0, 300.0])
def test_the_law_is_that_of_the_rounded_numbers(scale, absolute):
    store, request = int8_problem(scale, absolute=absolute)
    proposal = propose(nc.CachedSoftmax(store, 1), request, torch.Generator())
    wanted = law(store, request)
    got, tolerance = proposal.log_prob(torch.arange(N)), 1e-6 * max(scale, 10)
    torch.testing.assert_close(got.double(), wanted, atol=tolerance, rtol=0)
    ids, log_q = proposal.draw(request.noise(torch.Generator().manual_seed(1)))
    torch.testing.assert_close(log_q.double(), wanted.gather(1, ids), atol=tolerance, rtol=0)


@compiled
@pytest.mark.parametrize("scale", [1e-3, 20.0, 300.0])
@pytest.mark.parametrize("tile", [1, 1 << 18])
def test_the_compiled_pass_is_its_twin(monkeypatch, scale, tile):
    monkeypatch.setattr(integer_masses, "DOTS", tile)
    monkeypatch.setattr(integer_masses, "ROWS", 512)
    store, request = int8_problem(scale)
    rows = scored_rows(request, store)
    weights = torch.randn(N, generator=torch.Generator().manual_seed(2))
    for each in (rows, replace(rows, log_weights=weights), rows.of_queries(1, 3)):
        assert each.masses is not None
        masses, twin = each.masses(each), scan(replace(each, masses=None)).log_masses
        assert masses is not None
        torch.testing.assert_close(masses, twin, atol=2e-6 * max(scale, 5), rtol=0)


@compiled
def test_stage_one_takes_the_compiled_pass(monkeypatch):
    store, request = int8_problem()
    rows = scored_rows(request, store)
    assert rows.masses is not None
    masses = rows.masses(rows)
    assert masses is not None
    assert torch.equal(scan(rows).log_masses, masses)
    monkeypatch.setattr(integer_masses, "has_integer_products", lambda device: False)
    assert rows.masses(rows) is None
    torch.testing.assert_close(scan(rows), scan(replace(rows, masses=None)))


@pytest.fixture
def unchecked_types():
    """For draws by the hundred."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("unchecked_types")
@pytest.mark.parametrize("case", ROSTER, ids=lambda case: case.name)
def test_samplers_over_int8_rows(case):
    request, items, exact = problem(drift=0.3)
    store = nc.DenseCache(NUM_ITEMS, DIM, dtype=torch.int8)
    store.write(torch.arange(NUM_ITEMS), exact.rows(torch.arange(NUM_ITEMS)))
    check_sampler(case.build(store), request, items, unbiased=case.unbiased, rounds=20)


def test_rows_saved_in_another_type_are_refused():
    store = nc.DenseCache(300, 3, dtype=torch.int8)
    with pytest.raises(nc.InputError, match=r"rows saved as \['codes', 'scales'\]; got \['emb"):
        store.load_state_dict(nc.DenseCache(300, 3).state_dict())
    with pytest.raises(nc.InputError, match="build the store with the dtype it had"):
        nc.DenseCache(300, 3).load_state_dict(store.state_dict())


def test_a_process_takes_its_rows_of_the_state_of_all():
    whole = RowTable(Shard.whole(300), 3, torch.int8, "cpu")
    whole.write(torch.arange(300), torch.randn(300, 3), 4)
    part = RowTable(replace(Shard.whole(300), first=128, size=172), 3, torch.int8, "cpu")
    part.load_state_dict(whole.state_dict())
    assert torch.equal(part.rows.read(torch.arange(172)), whole.rows.read(torch.arange(128, 300)))


def test_a_scored_share_is_that_of_its_rows():
    """Blocks drawn anew each step: their law is that of the rows in view."""
    store, request = int8_problem(num_items=4 * N)
    view = propose(nc.CachedSoftmax(store, 1, scored=0.5), request, torch.Generator())
    log_q, wanted = view.log_prob(torch.arange(4 * N)), law(store, request)
    inside = (log_q > -torch.inf).any(dim=0)
    assert 0 < inside.sum() < store.valid.sum()
    wanted = wanted.masked_fill(~inside, -torch.inf).log_softmax(dim=1)
    wanted = wanted.nan_to_num(-torch.inf, neginf=-torch.inf)
    torch.testing.assert_close(log_q.double(), wanted, atol=2e-5, rtol=0)
