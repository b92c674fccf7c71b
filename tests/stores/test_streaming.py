"""The negative cache of a stream: what is held, what a row stands for, what is refused."""

import math
from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pace import slow
from torch import nn, tensor

import negcache as nc
from negcache.draws import draw, propose
from negcache.exclusion import Exclusion
from negcache.messages import Request
from negcache.samplers import CachedDistinct, HeadTail
from negcache.stores import Snapshot
from negcache.stores.arrivals import Arrivals, log_weights_of_distinct, log_weights_of_window
from negcache.stores.ring import Ring
from negcache.towers.static import Bags

N, D, SIZE, TILES = 60, 4, 16, 20
IDS = 3 + 2**40 * torch.arange(N)
FEATURES = torch.randn(N, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def cache_of(size=SIZE, **settings):
    return nc.StreamingCache(size, D, dtype=torch.float64, **settings)


def numbers(ids):
    """Which of the N items these are."""
    return (ids - 3) // 2**40


class Training:
    """Towers, a loss over a stream, and an optimizer; the batches are a function of the step."""

    def __init__(self, m=3, extra=2, **settings):
        torch.manual_seed(0)
        self.query_tower, item_tower = (nn.Linear(6, D, dtype=torch.float64) for _ in range(2))
        self.cache, self.extra = cache_of(**settings), extra
        sampler = nc.SharedDraws(nc.CachedSoftmax(self.cache, m))
        self.loss_fn = nc.SoftmaxLoss(item_tower, self.cache, sampler, nc.DotScore(0.3))
        parameters = [*self.query_tower.parameters(), *self.loss_fn.parameters()]
        self.optimizer = torch.optim.Adam(parameters, 1e-2)

    def step(self, number):
        noise = torch.Generator().manual_seed(number)
        seen = torch.randint(N, (6,), generator=noise)
        more = torch.randint(N, (self.extra,), generator=noise)
        self.cache.receive(IDS[seen], FEATURES[seen])
        self.cache.receive(IDS[more], FEATURES[more])
        loss = self.loss_fn(self.query_tower(FEATURES[seen] + 0.1), IDS[seen])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.loss_fn.step()
        return loss.detach()

    def rows_now(self):
        """What the item tower makes of the features of every item now."""
        with torch.no_grad():
            return self.loss_fn.score.embed(self.loss_fn.item_tower(FEATURES))


def test_the_first_step_has_no_negatives_and_moves_nothing():
    run = Training(extra=0)
    before = [each.clone() for each in run.loss_fn.parameters()]
    assert run.step(0) == 0, "rows of zeros are no negatives"
    assert all(torch.equal(a, b) for a, b in zip(before, run.loss_fn.parameters(), strict=True))
    assert run.step(1) > 0.1


def test_positives_enter_as_the_step_encodes_them_and_other_items_at_its_end():
    run = Training(refresh=0.0)
    run.step(0)
    noise = torch.Generator().manual_seed(0)
    seen, more = (torch.randint(N, (count,), generator=noise) for count in (6, 2))
    came = torch.cat([seen, more]).unique()
    assert torch.equal(numbers(run.cache.ring.held[run.cache.ring.occupied]).sort().values, came)
    assert torch.equal(run.cache.valid, run.cache.ring.occupied)
    report = run.loss_fn.report()
    assert report.encoded_grad == len(seen.unique())
    assert report.encoded_nograd == len(came) - len(seen.unique())
    late = more[~torch.isin(more, seen)]
    slots = run.cache.slots(IDS[late])
    torch.testing.assert_close(run.cache.rows(slots), run.rows_now()[late])


BATCHES = st.lists(st.lists(st.integers(0, 23), min_size=1, max_size=7), min_size=1, max_size=2)
"""What comes in a step: items that the step encodes, then others; fewer than there are slots."""


@settings(max_examples=60, deadline=None)
@given(st.lists(BATCHES, min_size=1, max_size=10), st.sampled_from([0.0, 1.0]))
def test_the_cache_holds_the_last_distinct_items(steps, refresh):
    cache, last = cache_of(refresh=refresh), []
    for batches in steps:
        for batch in batches:
            cache.receive(IDS[batch], FEATURES[batch])
            last = [item for item in last if item not in batch] + distinct(batch)
        encoded = tensor(batches[:1]).long().unique()
        cache.write(IDS[encoded], torch.ones(len(encoded), D, dtype=torch.float64))
        planned, waiting = cache.plan(), cache.features.waiting
        assert torch.equal(planned, cache.plan()), "asking changes nothing"
        cache.commit()
        assert sorted(cache.missing()) == sorted(waiting), "what came has no row yet"
        assert (cache.slots(planned) >= 0).all(), "what is encoded has a slot"
        cache.write(planned, torch.ones(len(planned), D, dtype=torch.float64))
        cache.step()
        assert torch.equal(cache.valid, cache.ring.occupied)
    oldest_first = cache.ring.held[cache.ring.touched.argsort(stable=True)]
    held = oldest_first[oldest_first >= 0]
    assert numbers(held).tolist() == last[-SIZE:]
    assert torch.equal(cache[held], FEATURES[numbers(held)]), "features follow their items"


def test_a_new_item_takes_the_slot_and_not_the_row_of_the_one_that_leaves():
    cache = cache_of(2, refresh=1.0)
    cache.receive(IDS[:2], FEATURES[:2])
    cache.write(IDS[:2], torch.ones(2, D, dtype=torch.float64))
    cache.receive(IDS[[2]], FEATURES[[2]])
    assert sorted(numbers(cache.plan()).tolist()) == [1, 2], "nobody encodes what leaves"
    cache.commit()
    assert numbers(cache.ring.held).tolist() == [2, 1]
    assert cache.valid.tolist() == [False, True], "no row until it is written"


def distinct(items):
    """Each once, where it stands last."""
    return list(dict.fromkeys(reversed(items)))[::-1]


def test_drawn_rows_are_encoded_anew_written_back_and_carry_gradient():
    run = Training(refresh=0.0, extra=0)
    for number in range(6):
        run.step(number)
    old = run.cache.rows(torch.arange(SIZE)).clone()
    ids = run.cache.ring.held.clone()
    seen = torch.tensor([0])
    run.cache.receive(IDS[seen], FEATURES[seen])
    fresh = run.rows_now()
    run.loss_fn(run.query_tower(FEATURES[seen]), IDS[seen]).backward()
    slots = run.cache.slots(ids)
    moved = (slots >= 0) & (run.cache.rows(slots.clamp_min(0)) != old).any(1)
    assert 1 <= int(moved.sum()) <= 4, "what was drawn, and the positive"
    torch.testing.assert_close(run.cache.rows(slots[moved]), fresh[numbers(ids[moved])])
    assert run.loss_fn.item_tower.weight.grad.any()


def test_the_oldest_rows_are_refreshed():
    run = Training(refresh=0.25, extra=0)
    for number in range(8):
        run.step(number)
    run.cache.table.embeddings.fill_(9.0)
    for _ in range(4):  # no item comes
        run.loss_fn.step()
    rows = run.cache.rows(torch.arange(SIZE))
    torch.testing.assert_close(rows, run.rows_now()[numbers(run.cache.ring.held)])


def test_rows_that_were_drawn_stay_under_the_other_eviction():
    held = {}
    for eviction in ("fifo", "least_recently_refreshed"):
        cache = cache_of(4, eviction=eviction, refresh=0.0)
        for item in range(4):
            cache.receive(IDS[[item]], FEATURES[[item]])
            cache.write(IDS[[item]], torch.ones(1, D, dtype=torch.float64))
            cache.step()
        cache.write(IDS[[0]], torch.ones(1, D, dtype=torch.float64))  # drawn
        cache.receive(IDS[[9]], FEATURES[[9]])
        cache.write(IDS[[9]], torch.ones(1, D, dtype=torch.float64))
        held[eviction] = sorted(numbers(cache.ring.held).tolist())
    assert held == {"fifo": [1, 2, 3, 9], "least_recently_refreshed": [0, 2, 3, 9]}


def test_a_refresh_keeps_no_row_longer():
    cache = cache_of(4, eviction="least_recently_refreshed", refresh=1.0)
    for item in range(4):
        cache.receive(IDS[[item]], FEATURES[[item]])
        cache.write(IDS[[item]], torch.ones(1, D, dtype=torch.float64))
    before = cache.ring.touched.clone()
    planned = cache.plan()
    cache.commit()
    cache.write(planned, torch.ones(4, D, dtype=torch.float64))
    assert torch.equal(cache.ring.touched, before)


def test_a_snapshot_leaves_training_rows_out():
    run = Training(refresh=Snapshot(3), extra=0)
    run.step(0)
    run.step(1)
    seen = numbers(run.cache.ring.held[run.cache.ring.occupied])[:2]
    before = run.cache.rows(run.cache.slots(IDS[seen])).clone()
    run.loss_fn(run.query_tower(FEATURES[seen]), IDS[seen])
    assert torch.equal(run.cache.rows(run.cache.slots(IDS[seen])), before)


@pytest.mark.parametrize("weight", [slow("none"), slow("uniform"), "dedup", "popularity"])
def test_a_resumed_run_is_the_straight_one(weight):
    made = {"row_weight": weight, "num_items": N if weight == "uniform" else None}
    straight, again = Training(**made), Training(**made)
    for number in range(5):
        straight.step(number)
    straight.cache.receive(IDS[[50]], FEATURES[[50]])  # waits
    state = straight.loss_fn.state_dict(), straight.query_tower.state_dict()
    again.loss_fn.load_state_dict(state[0])
    again.query_tower.load_state_dict(state[1])
    again.optimizer.load_state_dict(deepcopy(straight.optimizer.state_dict()))
    for number in range(5, 9):
        assert torch.equal(straight.step(number), again.step(number))
    for one, other in zip(
        straight.loss_fn.state_dict().values(), again.loss_fn.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


def mean_of_sums(weight, values, chances, **settings):
    """The mean, over a long stream, of sum exp(a) v over the rows."""
    cache = cache_of(row_weight=weight, refresh=0.0, **settings)
    noise = torch.Generator().manual_seed(0)
    stream = torch.multinomial(chances, 2_400, replacement=True, generator=noise)
    sums, rows = [], torch.ones(N, D, dtype=torch.float64)
    for place, items in enumerate(stream.split(6)):
        cache.receive(IDS[items], FEATURES[items])
        items = items.unique()
        cache.write(IDS[items], rows[items])
        if place > 60:
            alike = torch.full((SIZE,), -math.log(cache.coverage), dtype=torch.float64)
            weights = alike if cache.log_weights is None else cache.log_weights
            sums.append((weights.exp() * values[numbers(cache.ring.held)]).sum())
    return float(torch.stack(sums).mean())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("weight", ["dedup", slow("popularity"), slow("uniform"), "none"])
def test_weighted_rows_sum_to_all_items(weight):
    """Where items are as popular as can be; "none" counts the rows alone, "uniform" needs equal."""
    chances = torch.arange(1, N + 1, dtype=torch.float64)
    if weight == "uniform":
        chances = torch.ones(N, dtype=torch.float64)
    values = torch.rand(N, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
    settings = {"num_items": N} if weight == "uniform" else {}
    found = mean_of_sums(weight, values, chances / chances.sum(), **settings)
    near = abs(found / float(values.sum()) - 1) < 0.05
    assert near == (weight != "none"), found / float(values.sum())


def test_the_weights_are_those_of_the_table():
    """methods of row weights: 1 / (1 - (1 - pi)^H), and seen / (S pi)."""
    chances = tensor([0.5, 0.01], dtype=torch.float64)
    expected = 1 / (1 - (1 - chances) ** 30)
    torch.testing.assert_close(log_weights_of_distinct(chances, 30).exp(), expected)
    seen = tensor([16.0, 1.0], dtype=torch.float64)
    expected = tensor([1.0, 1 / 0.32], dtype=torch.float64)
    torch.testing.assert_close(log_weights_of_window(seen, chances, 32).exp(), expected)


@pytest.mark.parametrize("weight", ["dedup", "popularity"])
@settings(max_examples=30, deadline=None)
@given(st.lists(BATCHES, max_size=10))
def test_weights_are_those_of_the_stream(weight, steps):
    """By their definitions, over all that came and has its slot: also while other items wait."""
    cache, stream = cache_of(row_weight=weight, refresh=0.0), []

    def check():
        counted = stream[: cache.arrivals.total]
        held = cache.ring.held[cache.ring.occupied]
        assert set(counted[-SIZE:]) <= set(numbers(held).tolist()), "what counts has a slot"
        wanted = weights_of(weight, counted, numbers(held).tolist())
        assert cache.log_weights[cache.slots(held)].exp().tolist() == pytest.approx(wanted)

    for batches in steps:
        for batch in batches:
            cache.receive(IDS[batch], FEATURES[batch])
            stream += batch
            check()
        cache.commit()
        check()
    assert cache.arrivals.position == len(stream)


def test_weights_are_worked_out_once_a_change(monkeypatch):
    """They go over all rows; a state and a removal are changes too."""
    cache, other = cache_of(row_weight="dedup"), cache_of(row_weight="dedup")
    counted, before = [], Arrivals.log_weights
    monkeypatch.setattr(Arrivals, "log_weights", lambda *each: counted.append(1) or before(*each))
    cache.receive(IDS[[1, 2, 2, 3]], FEATURES[[1, 2, 2, 3]])
    cache.commit()
    counted.clear()  # type checks look at every attribute
    assert cache.log_weights is cache.log_weights
    assert len(counted) == 1
    assert not torch.equal(other.log_weights, cache.log_weights)
    other.load_state_dict(cache.state_dict())
    assert torch.equal(other.log_weights, cache.log_weights)
    cache.remove(IDS[[2]])
    assert not torch.equal(other.log_weights, cache.log_weights)


def test_nothing_can_be_looked_up_before_anything_has_come():
    with pytest.raises(nc.InputError, match="no item has come"):
        cache_of()[IDS[:0]]


def weights_of(kind, stream, held):
    """How many items the row of each stands for, from all that came."""
    chances = [stream.count(item) / len(stream) for item in held]
    if kind == "popularity":
        window = stream[-SIZE:]
        found = zip(held, chances, strict=True)
        return [window.count(item) / len(window) / chance for item, chance in found]
    since = 0  # the last so many arrivals are all there
    while since < len(stream) and stream[-1 - since] in held:
        since += 1
    return [1 / (1 - (1 - chance) ** since) for chance in chances]


@pytest.mark.parametrize("table", [0, 1])
def test_an_item_that_meets_another_in_one_bucket_has_its_own_count(table):
    arrivals, ring = Arrivals("dedup", 2, bits=6), Ring(2)
    buckets = torch.stack(arrivals._places(torch.arange(500)))
    alike = buckets == buckets[:, :1]
    other = int((alike[table] & ~alike[1 - table]).nonzero()[0])
    ring.put(torch.arange(2), tensor([0, other]), 0)
    arrivals.come(tensor([other, 0, other, other]))
    arrivals.settle()
    expected = log_weights_of_distinct(tensor([0.25, 0.75], dtype=torch.float64), 4)
    torch.testing.assert_close(arrivals.log_weights(ring), expected)


def test_rows_that_stand_for_equal_shares_of_the_items():
    cache = cache_of(row_weight="uniform", num_items=N)
    for count in range(1, SIZE + 5):
        cache.receive(IDS[[count]], FEATURES[[count]])
        cache.write(IDS[[count]], FEATURES[[count], :D])
        assert cache.coverage == min(count, SIZE) / N


def weighted_problem():
    """A cache whose rows stand for unequal numbers of items, and a request."""
    cache = cache_of(row_weight="dedup", refresh=0.0)
    for item in [0, 0, 0, 1, 1, 2, *range(3, 14)]:
        cache.receive(IDS[[item]], FEATURES[[item]])
        cache.write(IDS[[item]], FEATURES[[item], :D])
    queries = torch.randn(3, D, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    queries, positives = queries.repeat(TILES, 1), IDS[[0, 5, 40]].repeat(TILES)
    exclude = Exclusion.from_pairs(torch.arange(3 * TILES), positives, 3 * TILES)
    request = Request(queries, nc.DotScore(temperature=1.0, normalize=False), positives, exclude)
    logits = request.score(queries, cache.rows(torch.arange(SIZE))) + cache.log_weights
    logits[exclude.mask(cache.ids(torch.arange(SIZE)))] = -torch.inf
    return cache, request, logits


@pytest.mark.parametrize("kind", ["cached", "flat", "distinct", "head", "index", "shared"])
def test_draws_stand_for_the_weighted_rows(kind):
    """The law is the softmax with the weights of the rows, and Z~ its sum, whatever draws it."""
    cache, request, logits = weighted_problem()
    samplers = nc.samplers
    sampler = {
        "cached": lambda: nc.CachedSoftmax(cache, 5),
        "flat": lambda: nc.CachedSoftmax(cache, 5, power=0.5),
        "distinct": lambda: samplers.CachedDistinct(cache, 5),
        "head": lambda: samplers.HeadTail(cache, 3, 4),
        "index": lambda: nc.DynamicIndex(cache, 5),
        "shared": lambda: nc.SharedDraws(nc.CachedSoftmax(cache, 5)),
    }[kind]()
    if kind == "cached":
        log_q = propose(sampler, request, torch.Generator()).log_prob(cache.ring.held[:14])
        wanted = (logits - logits.logsumexp(1, keepdim=True))[:, :14]
        torch.testing.assert_close(log_q, wanted)
    fresh, sums = request.score(request.queries, FEATURES[:14, :D]), []
    for seed in range(16 if kind != "cached" else 3):
        drawn = draw(sampler, request, torch.Generator().manual_seed(seed))
        columns = fresh[:, numbers(drawn.ids)]
        if drawn.columns is not None:
            columns = columns.gather(1, drawn.columns)
        sums.append((columns + drawn.log_weight).exp().sum(1).view(TILES, -1).mean(0))
        if drawn.log_z is not None:
            torch.testing.assert_close(drawn.log_z, logits.logsumexp(1))
    found, truth = torch.stack(sums), logits[:3].exp().sum(1)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - truth).abs() <= 4.5 * error + 1e-9 * truth).all()


def test_samplers_that_know_no_weights_refuse_them():
    cache, _, _ = weighted_problem()
    for build in (nc.samplers.DynamicIndexChain, nc.samplers.DynamicIndexRejection):
        with pytest.raises(nc.InputError, match="StreamingCache with weights of its rows"):
            build(cache, 3)
    with pytest.raises(nc.InputError, match="StreamingCache with weights of its rows"):
        nc.CachedRest(cache, 3)


def test_no_mixture_takes_weighted_rows_for_all_items():
    cache, request, _ = weighted_problem()
    part = nc.CachedSoftmax(cache, 3)
    with pytest.raises(nc.InputError, match="reaches every item"):
        draw(nc.Mixture(part, part), request, torch.Generator())


def test_features_by_name():
    cache = cache_of()
    tokens = {"tokens": torch.arange(6).view(2, 3), "length": tensor([3, 2])}
    cache.receive(IDS[:2], tokens)
    found = cache[IDS[[1, 0]]]
    assert torch.equal(found["tokens"], tokens["tokens"].flip(0))
    assert torch.equal(found["length"], tokens["length"].flip(0))


def test_texts_as_bags():
    """Ragged texts come back as they were, also when longer ones come later."""
    cache = cache_of()
    first = Bags(tensor([5, 6, 7]), tensor([0, 2]))
    later = Bags(tensor([1, 2, 3, 4]), tensor([0, 0]))
    cache.receive(IDS[:2], first)
    cache.write(IDS[:2], torch.ones(2, D, dtype=torch.float64))
    cache.receive(IDS[2:4], later)
    found = cache[IDS[[3, 0, 2, 1]]]
    assert found.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert found.starts.tolist() == [0, 4, 6, 6]
    cache.receive(IDS[[0, 4]], Bags(tensor([5, 6, 1, 2, 3, 4, 5]), tensor([0, 2])))
    assert cache[IDS[[4]]].tokens.tolist() == [1, 2, 3, 4, 5]
    with pytest.raises(nc.InputError, match="others for item"):
        cache.receive(IDS[:1], Bags(tensor([5, 6, 8]), tensor([0])))


@pytest.mark.parametrize(
    ("ids", "features", "words"),
    [
        (IDS[:2], torch.ones(2, 5, dtype=torch.float64), r"tensor of \(6,\).*got tensor of \(5,\)"),
        (IDS[:2], torch.ones(2, 6), "torch.float32"),
        (IDS[:2], {"tokens": torch.ones(2, 6)}, "got tensors by name of tokens"),
        (IDS[:2], {}, "one row for each id"),
        (IDS[:3], FEATURES[:2], "features of 3 items"),
        (IDS[[5, 0]], FEATURES[[5, 1]], f"others for item {int(IDS[0])}"),
        (IDS[:1].int(), FEATURES[:1], "int64"),
        (-IDS[1:2], FEATURES[:1], "the smallest -"),
        (IDS[1 : SIZE + 2], FEATURES[1 : SIZE + 2], f"at most {SIZE} new.*got {SIZE + 1}"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(ids, features, words):
    """Golden vector NC-14 among them: names missing, names too many, unequal lengths."""
    cache = cache_of()
    cache.receive(IDS[:1], FEATURES[:1])
    cache.write(IDS[:1], torch.ones(1, D, dtype=torch.float64))
    before = cache.state_dict()
    before = before | {"ring": {k: v.clone() for k, v in before["ring"].items()}}
    with pytest.raises(nc.InputError, match=words):
        cache.receive(ids, features)
    after = cache.state_dict()
    assert torch.equal(after["ring"]["touched"], before["ring"]["touched"])
    assert torch.equal(after["features"]["waiting"], before["features"]["waiting"])
    assert cache.arrivals.position == 1


def test_positives_that_never_came_are_named():
    run = Training()
    with pytest.raises(nc.InputError, match=rf"the first of id {int(IDS[7])}.*cache.receive"):
        run.loss_fn(run.query_tower(FEATURES[[7]]), IDS[[7]])


def test_settings_without_a_weight_are_refused():
    with pytest.raises(nc.InputError, match="num_items with row_weight='uniform'"):
        cache_of(row_weight="uniform")
    with pytest.raises(nc.InputError, match="eviction='fifo' with row_weight='dedup'"):
        cache_of(row_weight="dedup", eviction="least_recently_refreshed")
    with pytest.raises(nc.InputError, match="row_weight of none"):
        cache_of(row_weight="alpha")
    with pytest.raises(nc.InputError, match="an eviction of fifo"):
        cache_of(eviction="lifo")
    with pytest.raises(nc.InputError, match="size of 2"):
        cache_of(1)


def test_removed_items_are_no_negatives_and_may_change():
    cache = cache_of()
    cache.receive(IDS[:2], FEATURES[:2])
    cache.write(IDS[:2], torch.ones(2, D, dtype=torch.float64))
    cache.remove(IDS[:1])
    assert int(cache.valid.sum()) == 1
    assert cache.slots(IDS[:1]).tolist() == [-1]
    cache.receive(IDS[:1], FEATURES[5:6])
    assert torch.equal(cache[IDS[:1]], FEATURES[5:6])


def test_sums_follow_the_stream():
    """A kernel sampler over a stream draws as one built anew from the rows."""
    run = Training(refresh=0.1)
    sampler = nc.quadratic(run.cache, 4)
    for number in range(6):
        run.step(number)
    queries = torch.randn(3, D, dtype=torch.float64)
    exclude = Exclusion.from_pairs(torch.arange(3), IDS[[1, 2, 3]], 3)
    request = Request(
        queries, nc.DotScore(temperature=1.0, normalize=False), IDS[[1, 2, 3]], exclude
    )
    held = run.cache.ring.held
    ours, anew = (
        propose(each, request, torch.Generator()).log_prob(held)
        for each in (sampler, nc.quadratic(run.cache, 4))
    )
    torch.testing.assert_close(ours, anew)


@pytest.mark.parametrize("estimator", [nc.log_q_corrected, nc.cached_partition])
@pytest.mark.parametrize("name", ["each its own", "distinct", "head and tail"])
def test_slots_to_which_nothing_came_are_no_draws(name, estimator):
    """The first steps of samplers that draw for each query from more slots than there are rows."""
    run = Training(extra=0, refresh=0.0)
    samplers = {
        "each its own": nc.CachedSoftmax(run.cache, 3),
        "distinct": CachedDistinct(run.cache, 9),
        "head and tail": HeadTail(run.cache, 8, 2),
    }
    run.loss_fn.sampler, run.loss_fn.estimator = samplers[name], estimator
    assert run.step(0) == 0, "there was nothing to draw"
    assert run.step(1) > 0.1


def test_before_anything_is_counted_no_row_counts():
    """A second batch before the step, while items without queries wait."""
    run = Training(row_weight="popularity")
    for number in (0, 1):
        run.cache.receive(IDS[:6] if number == 0 else IDS[6:12], FEATURES[6 * number :][:6])
        run.cache.receive(IDS[20:22], FEATURES[20:22])
        mine = slice(6 * number, 6 * number + 6)
        assert run.loss_fn(run.query_tower(FEATURES[mine]), IDS[mine]) == 0


def test_an_id_of_63_bits_stays_whole_where_others_encode_more():
    """Who has fewer items than others encodes one of the cache in their place."""
    run, ids = Training(), torch.tensor([2**62 + 1])
    run.cache.receive(ids, FEATURES[:1])
    run.cache.write(ids, torch.ones(1, D, dtype=torch.float64))
    ((some, rows),) = run.loss_fn.encoder.encode_all(ids[:0], 8, most=3)
    assert (len(some), len(rows)) == (0, 0)
