"""The automatic choice: its partition at any choice; what it learns, chooses and refuses."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

import negcache as nc
from negcache.draws import draw
from negcache.encoder import ItemEncoder, Numbers
from negcache.exclusion import Exclusion
from negcache.messages import Request
from negcache.ops.gradient_cosine import Chances, Extrapolated, Looked, Moments, chances, thinned
from negcache.samplers import Auto
from negcache.samplers.budget import Budget
from negcache.samplers.look import Choice, Look
from negcache.samplers.seen_positives import SeenPositives
from negcache.samplers.step_costs import StepCosts

N, D, B = 200, 6, 24
F64 = torch.float64
ASTRAY = Moments(1e3, 10.0, 1e3)  # what does not point along the gradient
LOST = Extrapolated(ASTRAY, ASTRAY)


def problem(seed=0, batch=B):
    """Queries, items, and positives that come by a steep law."""
    noise = torch.Generator().manual_seed(seed)
    items = nn.functional.normalize(torch.randn(N, D, generator=noise, dtype=F64), dim=1)
    queries = nn.functional.normalize(torch.randn(batch, D, generator=noise, dtype=F64), dim=1)
    return queries, items, nc.DotScore(0.2).double()


def ask(queries, score, positives):
    exclude = Exclusion.from_pairs(torch.arange(len(queries)), positives, len(queries))
    return Request(queries, score, positives, exclude)


def with_choice(sampler, choice, items, flops=0):
    sampler.begin(B, D, flops, 0)
    sampler.budget.choice, sampler.next_look = choice, 10**9
    if choice.cached:
        sampler._make_store(torch.device("cpu"))
        sampler.store.write(torch.arange(N), items)
    return sampler


SHARES = torch.arange(1, N + 1, dtype=F64).reciprocal() / torch.arange(1, N + 1).reciprocal().sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice", [Choice(16), Choice(60), Choice(16, 24), Choice(16, 48, 0.5)], ids=str
)
def test_the_partition_is_unbiased_at_every_choice(choice):
    """Over batches too: positives are drawn from the shares, and stand for the other queries."""
    queries, items, score = problem()
    sampler = with_choice(Auto(range(N), log_popularity=SHARES.log()), choice, items)
    noise, estimates = torch.Generator().manual_seed(1), []
    for _ in range(200):
        positives = torch.multinomial(SHARES, B, replacement=True, generator=noise)
        drawn = draw(sampler, ask(queries, score, positives), noise)
        terms = drawn.weighted(score(queries, items[drawn.ids]))
        logits = score(queries, items)
        logits[torch.arange(B), positives] = -torch.inf
        estimates.append((torch.logsumexp(terms, 1) - torch.logsumexp(logits, 1)).exp())
    ratio = torch.stack(estimates).mean(dim=1)  # of a batch
    error = ratio.std() / len(ratio) ** 0.5
    assert error < 0.02
    assert abs(ratio.mean() - 1) < 4 * error + 0.01, f"{ratio.mean():.3f} +- {error:.3f}"


def test_shares_are_counted_as_batches_come():
    seen, noise = SeenPositives(N), torch.Generator().manual_seed(0)
    assert seen.log_shares(torch.arange(3)).exp().tolist() == pytest.approx([1 / N] * 3)
    seen.add(torch.arange(50))
    assert seen.log_shares(torch.arange(N)).exp().tolist() == pytest.approx([1 / N] * N), "all new"
    for _ in range(100):
        seen.add(torch.multinomial(SHARES, 50, replacement=True, generator=noise))
        assert seen.log_shares(torch.arange(N)).exp().sum() == pytest.approx(1, abs=0.02)
    found = seen.log_shares(torch.arange(N)).exp()
    assert ((found - SHARES).abs() < 0.15 * SHARES + 0.002).all()
    again = SeenPositives(N)
    again.load_state_dict(deepcopy(seen.state_dict()))
    again.add(torch.arange(20))
    seen.add(torch.arange(20))
    assert torch.equal(again.log_shares(torch.arange(N)), seen.log_shares(torch.arange(N)))


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.2, 0.03])
@pytest.mark.parametrize("choice", [Choice(16), Choice(60), Choice(16, 24), Choice(4, 64)], ids=str)
def test_the_cosine_foretold_is_the_cosine_found(choice, temperature):
    """From all scores: of the queries' gradients, draw by draw, to the exact ones."""
    queries, items, _ = problem(3)
    score = nc.DotScore(temperature).double()
    positives = torch.randint(N, (B,), generator=torch.Generator().manual_seed(2))
    log_pi = torch.full((N,), -math.log(N), dtype=F64)
    logits = score(queries, items).clone()
    positive = logits[torch.arange(B), positives].clone()
    logits[torch.arange(B), positives] = -torch.inf
    found = chances(positive, logits, torch.zeros(N, dtype=F64))
    even = torch.full((N,), (B - 1) / N, dtype=F64)
    rarity = choice.rarity(even, found.among.mean(dim=0), N)
    looked = Looked(found, torch.ones(N, dtype=F64), items, items[positives])
    foretold = looked.under(rarity)
    exact = gradient(found.softmax, items, positives)
    sampler = with_choice(Auto(range(N), log_popularity=log_pi), choice, items)
    noise, along, square = torch.Generator().manual_seed(4), 0.0, 0.0
    for _ in range(200):
        batch = torch.randint(N, (B,), generator=noise)  # of other queries: they are left out
        drawn = draw(sampler, ask(queries, score, batch), noise)
        weight = drawn.weighted(torch.zeros(B, len(drawn.ids), dtype=F64))
        estimate = torch.zeros(B, N, dtype=F64)
        estimate[:, drawn.ids] = (logits[:, drawn.ids] + weight).exp()
        estimate /= estimate.sum(1, keepdim=True) + positive.exp()[:, None]
        step = gradient(estimate, items, positives)
        along, square = along + float((step * exact).sum()), square + float(step.square().sum())
    measured = along / 200 / math.sqrt(float(exact.square().sum()) * square / 200)
    assert foretold.exact == pytest.approx(float(exact.square().sum()))
    assert foretold.cosine == pytest.approx(measured, rel=0.02)


def gradient(softmax, items, positives):
    """Of each query: sum_j p_j (x_j - x+)."""
    return softmax @ items - softmax.sum(1, keepdim=True) * items[positives]


def test_a_pool_tells_the_gradients_under_laws_that_were_not_drawn():
    """Importance: on average over pools, the sums over all items."""
    queries, items, score = problem(5)
    logits, noise = score(queries, items), torch.Generator().manual_seed(6)
    positive, positives = torch.full((B,), 4.0, dtype=F64), items[:B]
    every = chances(positive, logits, torch.zeros(N, dtype=F64))
    laws = torch.rand(3, N, generator=noise, dtype=F64) + 0.2
    truth = [Looked(every, torch.ones(N, dtype=F64), items, positives).under(law) for law in laws]
    found = []
    for _ in range(100):
        ids = torch.randperm(N, generator=noise)[:100]
        weight = torch.full((100,), math.log(2.0), dtype=F64)
        part = chances(positive, logits[:, ids], weight)
        looked = Looked(part, weight.exp(), items[ids], positives)
        found.append(torch.tensor([looked.under(law[ids]) for law in laws], dtype=F64))
    mean = torch.stack(found).mean(0)
    torch.testing.assert_close(mean, torch.tensor(truth, dtype=F64), rtol=0.1, atol=0)


def test_an_item_that_stands_for_many_is_one_item():
    """The product with itself counts once, where those of two items count for all such pairs."""
    queries, items, score = problem(5)
    logits, noise = score(queries, items), torch.Generator().manual_seed(6)
    positive, positives = torch.full((B,), 4.0, dtype=F64), items[:B]
    every = chances(positive, logits, torch.zeros(N, dtype=F64))
    wanted, found = Looked(every, torch.ones(N, dtype=F64), items, positives).size, []
    for _ in range(600):
        ids = torch.nonzero(torch.rand(N, generator=noise) < 0.1).squeeze(1)  # each on its own
        weight = torch.full((len(ids),), 10.0, dtype=F64)
        found.append(Looked(every.of(ids), weight, items[ids], positives).size)
    assert sum(found) / 600 == pytest.approx(wanted, rel=0.06)


def test_what_never_stands_in_a_pool_is_missed():
    """As what hardly ever does; also where a query cannot see it at all."""
    queries, items, score = problem(5)
    logits = 4 * score(queries, items)
    logits[:, 0] = -torch.inf
    every = torch.ones(N, dtype=F64)
    found = chances(torch.zeros(B, dtype=F64), logits, torch.zeros(N, dtype=F64))
    looked, cosines = Looked(found, every, items, items[:B]), []
    for rarity in (1e12, math.inf, 1.0):
        law = torch.where(torch.arange(N) < N // 2, rarity, 1.0).double()
        cosines.append(looked.under(law).cosine)
    hardly, never, often = cosines
    assert never == pytest.approx(hardly)
    assert 0.1 < never < often - 0.01


def test_a_law_that_draws_everything_often_is_the_gradient():
    queries, items, score = problem(5)
    every = torch.ones(N, dtype=F64)
    found = chances(torch.zeros(B, dtype=F64), score(queries, items), torch.zeros(N, dtype=F64))
    assert Looked(found, every, items, items[:B]).under(1e-4 * every).cosine > 0.99
    nothing = found._replace(softmax=torch.zeros(B, N, dtype=F64))
    assert Looked(nothing, every, items, items[:B]).under(every).cosine == 1
    assert Moments(1.0, 0.0, 0.0).cosine == 1e-3, "nothing drawn"


def costly(flops, num_items=20_000, parameters=0):
    return Budget(StepCosts(128, 64, num_items, flops, parameters), refreshed=128)


def seen(budget, hard):
    """Of ``hard`` items of equal chance for every query: what a look would find."""
    share = torch.full((hard,), 1 / hard, dtype=F64)
    even = torch.full((hard,), 127 / budget.costs.num_items, dtype=F64)
    items = torch.nn.functional.normalize(
        torch.randn(hard, 64, generator=torch.Generator().manual_seed(0), dtype=F64), dim=1
    )
    positives = torch.nn.functional.normalize(
        torch.randn(1, 64, generator=torch.Generator().manual_seed(1), dtype=F64), dim=1
    )
    p = Chances(torch.full((1,), 0.1, dtype=F64), 0.9 * share[None], share[None])
    looked = Looked(p, torch.ones(hard, dtype=F64), items, positives)
    laws = [each.rarity(even, share, budget.costs.num_items) for each in budget.choices]
    return {choice: looked.under(law) for choice, law in zip(budget.choices, laws, strict=True)}


def test_what_is_chosen_follows_noise_and_cost():
    cheap, dear, fixed = (
        costly(flops, num_items=2_000, parameters=parameters)
        for flops, parameters in ((16_000, 0), (30_000_000, 0), (16_000, 10_000_000))
    )
    for budget in (cheap, dear, fixed):
        budget.seen = seen(budget, hard=2_000)  # a flat softmax: every pool is good
        budget.decide(has_store=True)
        assert budget.choice.cached == 0, "a better law would buy nothing"
        budget.seen = seen(budget, hard=1)  # a sharp one
    flat = cheap.choice.uniform
    cheap.decide(has_store=True)
    dear.decide(has_store=True)
    fixed.decide(has_store=True)
    assert cheap.choice.uniform > flat or cheap.choice.cached > 0
    assert dear.choice.cached > 0, "encoding is dear, so what is encoded is chosen well"
    assert sum(fixed.choice[:2]) >= sum(cheap.choice[:2]), "where a step is dear, more of it"


@pytest.mark.parametrize(("queries", "uniform"), [(8, 8), (32, 0), (1024, 0)])
def test_until_the_first_look_nothing_dear_is_drawn(queries, uniform):
    budget = Budget(StepCosts(queries, 64, 100_000), 0)
    assert budget.choice == Choice(uniform), "few queries alone are too few negatives"


def test_no_cache_is_filled_before_the_training_has_cost_as_much():
    budget = costly(30_000_000)
    budget.seen = seen(budget, hard=10)
    budget.decide(has_store=False)
    assert budget.choice.cached == 0
    while budget.spent < 3 * budget.costs.fill:
        budget.spend(budget.choice)
    budget.decide(has_store=False, may_fill=False)
    assert budget.choice.cached == 0, "processes that draw apart share no store"
    budget.decide(has_store=False)
    assert budget.choice.cached > 0


def of_cosine(cosine):
    moments = Moments(1.0, cosine, 1.0)
    return Extrapolated(moments, moments)


@pytest.mark.parametrize(("gain", "filled"), [(1.05, False), (1.2, True)])
def test_a_cache_is_filled_for_more_than_a_little(gain, filled):
    budget, uniform, cached = costly(30_000_000), Choice(128), Choice(4, 128)
    budget.spent = 3 * budget.costs.fill
    dearer = budget.cost(cached) / budget.cost(uniform)
    found = {uniform: of_cosine(0.2), cached: of_cosine(0.2 * math.sqrt(dearer * gain))}
    budget.seen = found
    budget.decide(has_store=False)
    assert bool(budget.choice.cached) == filled
    budget.decide(has_store=True)
    assert budget.choice.cached, "what is filled costs nothing more"


class Training:
    """Two linear towers; the batches are a function of the step."""

    def __init__(self, flops=None):
        torch.manual_seed(0)
        self.corpus = torch.randn(2000, 24, generator=torch.Generator().manual_seed(7))
        self.tower = nn.Linear(24, 16)
        self.sampler = Auto(self.corpus)
        if flops is not None:
            self.sampler.begin(8, 16, flops, 0)
            budget = self.sampler.budget  # earlier looks have found that uniform draws are lost
            budget.seen = {each: LOST for each in budget.choices if not each.cached}
            budget.saw = len(self.corpus)
        self.loss_fn = nc.SoftmaxLoss(self.tower, self.corpus, self.sampler, nc.DotScore(0.02))
        self.optimizer = torch.optim.Adam(self.loss_fn.parameters(), 1e-2)
        self.loss_fn.step_with(self.optimizer)

    def step(self, number):
        noise = torch.Generator().manual_seed(number)
        seen = torch.randint(2000, (8,), generator=noise)
        features = self.corpus[seen] + 0.5 * torch.randn(8, 24, generator=noise)
        loss = self.loss_fn(self.tower(features), seen)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def test_a_second_cache_has_to_be_worth_more_than_the_first():
    budget = costly(30_000_000)
    budget.seen = seen(budget, hard=10)
    for fills in (3, 6, 12):
        budget.spent = (fills - 1) * budget.costs.fill
        budget.decide(has_store=False)
        assert budget.choice.cached == 0
        budget.spent = fills * budget.costs.fill
        budget.decide(has_store=False)
        assert budget.choice.cached > 0
        budget.filled()
        assert not any(choice.cached for choice in budget.seen)
        budget.seen = seen(budget, hard=10)


def test_a_look_sees_how_stale_the_cache_is():
    """Rows that point elsewhere: draws by them miss what the softmax wants."""
    queries, items, _ = problem()
    score = nc.DotScore(0.03).double()
    positives = torch.randint(N, (B,), generator=torch.Generator().manual_seed(2))
    queries = nn.functional.normalize(items[positives] + 0.6 * queries, dim=1)
    request, found = ask(queries, score, positives), []
    for rows in (items, items.roll(1, dims=0)):
        sampler = with_choice(Auto(range(N)), Choice(4, 16), rows, flops=10**8)
        sampler.next_look = 0
        sampler.draw(request, torch.Generator().manual_seed(1))
        look = sampler.look
        assert look.ids.tolist() == list(range(N)), "as many as there are"
        scores = score(queries, rows).clone()
        scores[torch.arange(B), positives] = -torch.inf
        law = scores.softmax(dim=1).mean(dim=0)
        torch.testing.assert_close(look.log_stored.exp(), law)
        for each in (look, look._replace(log_stored=None)):
            sampler.budget.seen = {}
            sampler.budget.look(request, each, items, items[positives][:, None])
            found.append(sampler.budget.cosines[Choice(4, 6)])
    _, _, stale, taken_for_fresh = found
    assert stale < 0.9 * taken_for_fresh


@pytest.mark.slow
def test_a_cache_that_is_no_longer_the_best_is_let_go():
    run = Training(flops=10**7)
    for number in range(100):
        run.step(number)
    sampler, store = run.sampler, run.sampler.store
    assert store is not None
    budget = sampler.budget
    budget.seen |= {choice: LOST for choice in budget.choices if choice.cached}
    sampler.next_look = sampler.steps
    run.step(100)
    assert sampler.choice.cached == 0
    assert sampler.store is None
    run.loss_fn.report()
    run.step(101)
    assert run.loss_fn.report().encoded_nograd == 0


@pytest.mark.parametrize("before", [pytest.param(5, marks=pytest.mark.slow), 90])
def test_a_resumed_run_is_the_straight_one(before):
    """Also over the step in which a cache is first asked for."""
    straight, resumed = Training(flops=10**7), Training()
    for number in range(before):
        straight.step(number)
    resumed.loss_fn.load_state_dict(deepcopy(straight.loss_fn.state_dict()))
    resumed.optimizer.load_state_dict(deepcopy(straight.optimizer.state_dict()))
    found = [[run.step(number) for number in range(before, 100)] for run in (straight, resumed)]
    assert found[0] == found[1]
    assert straight.sampler.budget.seen == resumed.sampler.budget.seen
    assert straight.sampler.choice == resumed.sampler.choice
    assert straight.sampler.choice.cached > 0
    assert straight.sampler.store is not None
    assert bool(straight.sampler.store.valid.all())


def test_it_says_what_it_chose_and_why():
    run = Training()
    for number in range(34):
        run.step(number)
    chosen, told = run.sampler.choice, run.loss_fn.report().sampler
    assert told == {"uniform": chosen.uniform, "cached": chosen.cached, "scored": chosen.scored}
    (line,) = [each for each in run.sampler.explain().splitlines() if each.endswith("chosen")]
    assert line.startswith(f"{chosen.uniform} uniform, {chosen.cached} cached")
    assert run.sampler.budget.costs.tower_flops == 2 * 24 * 16


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(nc.InputError, match="at least 2 items"):
        Auto(range(1))
    with pytest.raises(nc.InputError, match="log"):
        Auto(range(3), log_popularity=torch.ones(3))
    queries, _, score = problem()
    request = Request(
        queries, score, torch.zeros(B, dtype=torch.long),
        Exclusion.from_pairs(torch.arange(B), torch.zeros(B, dtype=torch.long), B), num_items=N,
    )  # fmt: skip
    with pytest.raises(nc.InputError, match=f"{N} items"):
        draw(Auto(range(N + 1)), request, torch.Generator())


class Contextual(nn.Module):
    """Tokens of an item in their context, averaged."""

    def __init__(self, layers):
        super().__init__()
        self.tokens, self.layers = nn.Embedding(N, 8), layers

    def forward(self, ids):
        found = self.layers(self.tokens(ids)[:, None].expand(-1, 5, -1))
        return (found[0] if isinstance(found, tuple) else found).mean(dim=1)


@pytest.mark.parametrize("layers", ["transformer", "recurrent"])
def test_fused_layers_have_a_cost(layers):
    """Torch runs them without gradient as one operation that no counter knows."""
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    made = {
        "transformer": nn.TransformerEncoder(block, 2, enable_nested_tensor=False),
        "recurrent": nn.GRU(8, 8, batch_first=True),
    }[layers]
    encoder = ItemEncoder(Contextual(made), Numbers(N), nc.DotScore())
    matrices = sum(each.numel() for each in made.parameters() if each.ndim == 2)
    assert encoder.flops(torch.arange(8)) >= 2 * 5 * 0.9 * matrices
    assert torch.backends.mha.get_fastpath_enabled()


def test_looks_cost_a_small_share_of_the_training():
    light, heavy = costly(0, num_items=10**6), costly(10**9, num_items=10**6)
    for each in (light, heavy):
        each.looks = 20
        spent = each.pause * each.cost(each.choice)
        assert each.looked_at * each.costs.looking <= 0.021 * spent
    heavy.looks, heavy.choice = 0, Choice(4)
    assert heavy.looked_at == 512
    assert costly(0, num_items=300).looked_at == 300


def test_what_few_items_said_counts_less_than_what_many_say():
    """Looks at 10, at all and again at all items: a quarter is kept of an equal one, else less."""
    queries, items, score = problem()
    request = ask(queries, score, torch.arange(B))
    budget, found = with_choice(Auto(range(N)), Choice(4), None).budget, []
    for count in (10, N, N):
        ids = torch.arange(count) * (N // count)
        share = torch.full((count,), -math.log(N), dtype=F64)
        budget.look(request, Look(ids, share), items[ids], items[:B, None])
        found.append(budget.seen[Choice(4)].whole.exact)
    (ten, once, again), alone = found, costly(0)
    alone.costs = budget.costs
    ids = torch.arange(N)
    share = torch.full((N,), -math.log(N), dtype=F64)
    alone.look(request, Look(ids, share), items, items[:B, None])
    every = alone.seen[Choice(4)].whole.exact
    assert once == pytest.approx(every + (ten - every) * 0.25 * 10 / N)
    assert again == pytest.approx(every + (once - every) * 0.25)


def test_what_is_looked_at_is_looked_at_once(monkeypatch):
    """Else what a query may not draw would be left out once alone."""
    queries, _, score = problem()
    sampler = with_choice(Auto(range(N)), Choice(4), None)
    monkeypatch.setattr(Budget, "looked_at", 150)
    for seed in range(10):
        sampler.next_look = 0
        sampler.draw(ask(queries, score, torch.arange(B)), torch.Generator().manual_seed(seed))
        ids = sampler.look.ids
        assert len(ids.unique()) == len(ids) > 100


def test_few_items_stand_for_many():
    noise = torch.Generator().manual_seed(0)
    softmax = torch.rand(8, 5000, generator=noise, dtype=F64) ** 8
    softmax[0, 7] = 1e3
    weight = torch.full((5000,), 3.0, dtype=F64)
    chosen, stands_for = thinned(softmax, weight, 500)
    assert len(chosen) <= 500
    assert 7 in chosen, "what has most of the mass"
    values = softmax.clamp_max(1)
    for column in values:
        whole, part = 3 * column.sum(), (column[chosen] * stands_for).sum()
        assert part.item() == pytest.approx(whole.item(), rel=0.25)
    every, same = thinned(softmax[:, :100], weight[:100], 10**6)
    assert every.tolist() == list(range(100))
    assert torch.equal(same, weight[:100])


def test_what_part_of_the_items_does_not_see_is_foretold():
    """Looks at a third of the items, where every positive has nine like it."""
    count, noise = 13_000, torch.Generator().manual_seed(3)
    kinds = torch.randn(count // 10, 32, generator=noise, dtype=F64).repeat(10, 1)
    items = kinds + 0.6 * torch.randn(count, 32, generator=noise, dtype=F64)
    items = nn.functional.normalize(items[torch.randperm(count, generator=noise)], dim=1)
    positives = items[:64]
    queries = positives + 0.3 * torch.randn(64, 32, generator=noise, dtype=F64)
    request = ask(queries, nc.DotScore(0.05).double(), torch.arange(64))

    def looked(stride, start):
        budget = Budget(StepCosts(64, 32, count), 64)
        ids = torch.arange(start, count, stride)
        share = torch.full((len(ids),), -math.log(count), dtype=F64)
        budget.look(request, Look(ids, share), items[ids], positives[:, None])
        return budget.seen

    wanted = {choice: seen.cosine for choice, seen in looked(1, 0).items()}
    thirds = [looked(3, start) for start in range(3)]
    for choice in (Choice(0), Choice(64)):
        parts = [math.log(each[choice].whole.cosine / wanted[choice]) for each in thirds]
        told = [math.log(each[choice].cosine / wanted[choice]) for each in thirds]
        assert all(part > 0.05 for part in parts), "what is missed is not missed"
        assert abs(sum(told)) < 0.3 * sum(parts)
