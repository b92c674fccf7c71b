"""The chunked two-stage draw against the closed form, and against one Gumbel-max pass."""

from dataclasses import replace

import pytest
import torch
from pace import slow
from partition import log_prob
from roster import problem

import negcache as nc
from negcache.draws import draw as draw_from
from negcache.ops import drawn_blocks, two_stage
from negcache.ops.cumulative import invert_cdf
from negcache.stores.reading import scored_rows
from negcache.testing import reference
from negcache.testing.conformance import chi_square_p, tile

DRAWS = 200_000


def store_of(logits, valid=None):
    """A store of D = 1 rows that are the logits themselves; rows not valid are never written."""
    store = nc.DenseCache(len(logits), 1)
    ids = torch.arange(len(logits)) if valid is None else valid.nonzero()[:, 0]
    store.write(ids, logits[ids, None].float())
    return store


def request_for(num_queries=1, positive=0):
    score = nc.DotScore(1.0, normalize=False).requires_grad_(False)
    positives = torch.full((num_queries,), positive)
    exclude = nc.exclusion.Exclusion.from_pairs(torch.arange(num_queries), positives, num_queries)
    return nc.messages.Request(torch.ones(num_queries, 1), score, positives, exclude)


def counts_of(logits, seed, valid=None, draws=DRAWS, rows=20):
    request = request_for(rows)
    scored = scored_rows(request, store_of(logits, valid))
    noise = request.uniforms(torch.Generator().manual_seed(seed), draws // rows, 2)
    found = two_stage.draw_rows(scored, two_stage.scan(scored), noise)
    return torch.bincount(found.slots.flatten(), minlength=len(logits))


def gumbel_counts(logits, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = logits.clone()
    scores[0] = -torch.inf
    counts = torch.zeros(len(logits), dtype=torch.long)
    for _ in range(10):
        uniform = torch.rand(DRAWS // 10, len(logits), generator=generator)
        noise = uniform.log_().neg_().log_().neg_()
        picks = reference.gumbel_argmax(scores.expand_as(noise), noise)
        counts += torch.bincount(picks.flatten(), minlength=len(logits))
    return counts


def law_of(logits):
    kept = logits.double().clone()
    kept[0] = -torch.inf  # the positive
    return kept.softmax(0)


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
@pytest.mark.parametrize("num_items", [12, 1000])
@pytest.mark.parametrize("draw", [counts_of, gumbel_counts])
def test_frequencies(draw, num_items, seed):
    logits = 2 * torch.randn(num_items, generator=torch.Generator().manual_seed(5))
    counts = draw(logits, seed)
    assert counts.sum() == DRAWS
    assert counts[0] == 0
    assert chi_square_p(counts, law_of(logits) * DRAWS) > 1e-4


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
def test_one_item_of_probability_099_and_rows_of_minus_infinity(seed):
    logits = torch.zeros(1000)
    logits[500] = torch.tensor(998 * 99.0).log()
    valid = torch.ones(1000, dtype=torch.bool)
    valid[700:900] = False
    counts = counts_of(logits, seed, valid)
    assert counts[700:900].sum() == 0
    law = law_of(logits.masked_fill(~valid, -torch.inf))
    assert chi_square_p(counts, law * DRAWS) > 1e-4


@pytest.mark.parametrize("seed", [0, slow(1), slow(2)])
def test_no_saturation_over_ten_million_equal_logits(seed):
    """float32 Gumbel noise cannot reach 45 % of the maxima here; two stages can."""
    num_items, draws = 10_000_000, 2000
    request = request_for()
    rows = scored_rows(request, store_of(torch.zeros(num_items)))
    noise = request.uniforms(torch.Generator().manual_seed(seed), draws, 2)
    ids = two_stage.draw_rows(rows, two_stage.scan(rows), noise).slots.flatten()
    assert reference.saturation_share(num_items) > 0.4  # what one float32 Gumbel pass would lose
    blocks = torch.bincount(ids * 10 // num_items, minlength=10)
    assert chi_square_p(blocks, torch.full((10,), draws / 10)) > 1e-4
    repeats = draws - len(ids.unique())  # expected: draws^2 / 2N = 0.2
    assert repeats <= 4


def test_log_mass_is_the_partition_and_chunks_do_not_matter(monkeypatch):
    request, items, store = problem(num_items=1000)
    rows = scored_rows(request, store)
    whole = two_stage.scan(rows).log_mass
    torch.testing.assert_close(whole, reference.log_partition(request, items), atol=1e-10, rtol=0)
    monkeypatch.setitem(two_stage.CHUNK_SCORES, "cpu", 1)
    small = two_stage.scan(rows).log_mass
    torch.testing.assert_close(small, whole, atol=1e-12, rtol=0)


def test_stage_two_masks_what_stage_one_masks():
    """Exclusions at the edges of blocks, in the last short block, many for one query."""
    request, _items, store = problem(num_items=700)
    excluded = torch.tensor([126, 127, 128, 129, 255, 256, 640, 698, 699])
    rows = torch.arange(5).repeat_interleave(len(excluded))
    exclude = request.exclude.and_also(rows, excluded.repeat(5))
    request = nc.messages.Request(request.queries, request.score, request.positives, exclude)
    draw = draw_from(
        nc.CachedSoftmax(store, 400), tile(request, 20), torch.Generator().manual_seed(0)
    )
    drawn = draw.ids[draw.columns]
    rows = torch.arange(100)[:, None].expand_as(drawn)
    assert not tile(request, 20).exclude.contains(rows, drawn).any()


def test_bf16_rows_keep_the_law():
    """Scores stay float32: log Z within 2e-2, law within TV 0.5 % at scale 20, N = 20,000."""
    generator = torch.Generator().manual_seed(0)
    score = nc.DotScore(0.05).requires_grad_(False)
    items = score.embed(torch.randn(20_000, 64, generator=generator))
    queries = score.embed(torch.randn(16, 64, generator=generator))
    positives = torch.arange(16)
    exclude = nc.exclusion.Exclusion.from_pairs(torch.arange(16), positives, 16)
    request = nc.messages.Request(queries, score, positives, exclude)
    laws = []
    for dtype in (torch.float32, torch.bfloat16):
        store = nc.DenseCache(20_000, 64, dtype=dtype)
        store.write(torch.arange(20_000), items)
        scanned = two_stage.scan(scored_rows(request, store))
        assert scanned.log_masses.dtype == torch.float32
        log_q = log_prob(nc.CachedSoftmax(store, 1), request, torch.arange(20_000))
        laws.append((scanned.log_mass, log_q.double().exp()))
    assert (laws[0][0] - laws[1][0]).abs().max() < 2e-2
    assert (laws[0][1] - laws[1][1]).abs().sum(1).max() / 2 < 0.005


def test_every_way_through_stage_two_draws_the_same(monkeypatch):
    """By the rows of drawn blocks; on a walk over all rows; by scores that stage one has kept."""
    monkeypatch.setitem(two_stage.CHUNK_SCORES, "cpu", 5 * 1024)  # four chunks
    request, _, store = problem(num_items=4000)
    store.table.written[torch.arange(200, 1400)] = -1  # not valid
    rows, count = scored_rows(request, store), store.num_rows
    assert not two_stage.scores_all(7, count)
    bare, kept = two_stage.scan(rows), two_stage.scan(rows, 9)
    assert bare.logits is None
    assert kept.logits is not None
    assert torch.equal(kept.log_masses, bare.log_masses)
    for draws, walked in ((7, True), (6, False)):
        assert drawn_blocks.walks(5 * draws, count) == walked
        noise = request.uniforms(torch.Generator().manual_seed(draws), draws, 2)
        own, other = (two_stage.draw_rows(rows, scanned, noise) for scanned in (bare, kept))
        assert torch.equal(own.slots, other.slots)
        torch.testing.assert_close(own.logits, other.logits)
        assert store.valid[own.slots].all()
        assert not rows.exclude.hits(own.slots).any()


@pytest.mark.parametrize("draws", [3, 40, 400])
def test_a_walk_scores_blocks_as_gathering_does(draws, monkeypatch):
    """One block after the other and several together, a short last one, blocks nobody drew."""
    request, _, store = problem(num_items=1500)
    store.table.written[torch.arange(700, 720)] = -1
    rows = replace(scored_rows(request, store), log_weights=torch.linspace(-1, 1, 1500).double())
    noise = torch.Generator().manual_seed(draws)
    queries = torch.randint(5, (draws,), generator=noise)
    blocks = torch.tensor([0, 1, 2, 5, 11])[torch.randint(5, (draws,), generator=noise)]
    found = []
    for walked in (True, False):
        monkeypatch.setattr(drawn_blocks, "walks", lambda *_, answer=walked: answer)
        found.append(drawn_blocks.scores_of_blocks(rows, queries, blocks))
    torch.testing.assert_close(*found)
    slots = blocks[:, None] * 128 + torch.arange(128)
    there = (
        (slots < 1500)
        & ~((slots >= 700) & (slots < 720))
        & ~rows.exclude.contains(queries[:, None].expand_as(slots), slots)
    )
    assert torch.equal(found[0] > -torch.inf, there)


def test_a_walk_reads_each_row_once():
    """However many draws there are; gathering would read 128 rows for each."""
    request, _, store = problem(num_items=4000)
    rows, read = scored_rows(request, store), []

    def chunks(size):
        for first, chunk in store.chunks(size):
            read.append(len(chunk))
            yield first, chunk

    scanned, noise = two_stage.scan(rows), request.uniforms(torch.Generator(), 200, 2)
    two_stage.draw_rows(replace(rows, chunks=chunks), scanned, noise)
    assert sum(read) == 4000


def test_scores_are_kept_only_where_they_are_few(monkeypatch):
    rows = scored_rows(*problem(num_items=300)[::2])
    assert two_stage.scan(rows, 1).logits.shape == (5, 300)
    monkeypatch.setattr(two_stage, "ALL_SCORES", 5 * 300 - 1)
    assert two_stage.scan(rows, 1).logits is None


def test_taking_rows_away_forgets_the_scores_that_held_them():
    request, _, store = problem(num_items=300)
    rows = scored_rows(request, store)
    slots = torch.tensor([[140], [9], [299], [3], [4]])
    fewer, left = two_stage.take_away(rows, two_stage.scan(rows, 6), slots)
    assert left.logits is None
    torch.testing.assert_close(left.log_masses, two_stage.scan(fewer).log_masses)
    assert (left.log_mass < two_stage.scan(rows).log_mass).all()


def test_small_masses_are_not_lost_beside_a_large_one():
    """The sum of 1,000 masses of 1e-9 beside 1, in float32 logs: each is met at its own place."""
    log_masses = torch.full((1, 1001), 1e-9).log()
    log_masses[0, 0] = 0
    each = log_masses[0, 1].double().exp()
    middles = 1 + (torch.arange(1000).double() + 0.5) * each
    place = invert_cdf(log_masses, (middles / (1 + 1000 * each))[None])
    assert torch.equal(place[0], torch.arange(1, 1001))
