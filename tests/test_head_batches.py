"""Batches of a softmax head: any leading dimensions, weights, reductions, a padding class."""

from functools import partial

import pytest
import torch
from setting import Watched
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import negcache as nc
from negcache.distributed import Mesh
from negcache.ops.two_stage import CHUNK_SCORES

N, D, B, T, PAD = 60, 6, 4, 5, 0
REDUCTIONS = ["mean", "sum", "none"]

SAMPLERS = {
    "default": None,
    "full": lambda table, m: nc.FullSoftmax(table),
    "uniform": nc.Uniform,
    "popularity": lambda table, m: nc.Popularity(torch.arange(1, N + 1).flip(0), m),
    "shared": lambda table, m: nc.SharedDraws(nc.CachedSoftmax(table, m)),
    "quadratic": nc.quadratic,
    "random_features": partial(nc.rf_softmax, num_frequencies=16, nu=1.0),
    "clusters": nc.DynamicIndex,
    "distinct": nc.samplers.CachedDistinct,
    "rest": nc.CachedRest,
    "hard": lambda table, m: nc.samplers.StaleTopK(table, m, tail=2),
    "mixture": lambda table, m: nc.Mixture(nc.CachedSoftmax(table, m), nc.Uniform(table, m)),
}


def build(sampler=None, classes=N, **settings):
    torch.manual_seed(0)
    head = nc.SoftmaxHead(classes, D, sampler, 8, dtype=torch.float64, **settings).double()
    noise = torch.Generator().manual_seed(1)
    hidden = torch.randn(B, T, D, generator=noise, dtype=torch.float64, requires_grad=True)
    target = torch.randint(1, N, (B, T), generator=noise)
    return head, hidden, target


def all_logits(head, hidden):
    """Of all classes but the padding, as ``nn.Linear`` would give them, one row after the other."""
    logits = F.linear(hidden.flatten(0, -2), head.weight, head.bias)
    if head.padding_idx is None:
        return logits
    here = torch.arange(N) == head.padding_idx
    return logits.masked_fill(here, -torch.inf)


def in_torch(head, hidden, target, reduction, of_class=None):
    """``cross_entropy``, whose class weights are the rows' weights where each class has its own."""
    target, logits = target.flatten(), all_logits(head, hidden)
    if head.padding_idx is not None:
        target = target.where(target != head.padding_idx, -100)
    return F.cross_entropy(logits, target, weight=of_class, reduction=reduction)


@pytest.mark.parametrize("padding_idx", [None, PAD])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_loss_and_gradients_are_those_of_cross_entropy(reduction, weighted, padding_idx):
    """In training every other class is drawn once; the exact evaluation is the same number."""
    head, hidden, target = build(SAMPLERS["full"], padding_idx=padding_idx)
    target[0, 2], target[1, 3], target[3, :2] = -100, 7, PAD
    if padding_idx is None:
        target[3, :2] = 11
    of_class = torch.rand(N, generator=torch.Generator().manual_seed(2)).double() + 0.1
    weight = of_class[target.clamp_min(0)] if weighted else None
    truth = in_torch(head, hidden, target, reduction, of_class if weighted else None)
    ours = head(hidden, target, weight=weight, reduction=reduction)
    assert ours.shape == (target.shape if reduction == "none" else ())
    torch.testing.assert_close(ours.flatten(), truth.flatten(), atol=1e-10, rtol=0)
    wanted = hidden, head.table.weight
    exact = torch.autograd.grad((truth * truth.detach()).sum(), wanted)
    found = torch.autograd.grad((ours * ours.detach()).sum(), wanted)
    torch.testing.assert_close(found, exact, atol=1e-9, rtol=0)
    if padding_idx == PAD:
        assert not found[1][PAD].any()
    head.eval()
    evaluated = head(hidden, target, weight=weight, reduction=reduction)
    torch.testing.assert_close(evaluated.flatten(), truth.flatten(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ["default", "uniform", "shared", "quadratic"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_sequences_equal_their_rows_bit_for_bit(name, training, reduction):
    found = []
    for flat in (False, True):
        head, hidden, target = build(SAMPLERS[name], padding_idx=PAD)
        target[2, :3] = PAD
        head.train(training)
        batch = (hidden.flatten(0, 1), target.flatten()) if flat else (hidden, target)
        weight = torch.linspace(0.5, 2.0, B * T).view(batch[1].shape)
        loss = head(*batch, weight=weight, reduction=reduction)
        assert loss.shape == (batch[1].shape if reduction == "none" else ())
        grads = torch.autograd.grad(loss.sum(), [hidden, head.table.weight]) if training else ()
        best = head.topk(batch[0], 3)
        assert best[1].shape == (*batch[1].shape, 3)
        log_p = head.log_prob(batch[0])
        assert log_p.shape == (*batch[1].shape, N)
        found.append([loss.flatten(), log_p.flatten(), *(b.flatten() for b in best), *grads])
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_more_rows_than_are_scored_at_a_time(monkeypatch):
    """Rows and classes go by in parts; the last of each is short."""
    head, hidden, target = build(classes=300, padding_idx=293)
    head.eval()
    whole = head(hidden, target, reduction="none"), head.log_prob(hidden), *head.topk(hidden, 4)
    monkeypatch.setattr("negcache.exact.ROWS", 3)
    monkeypatch.setattr("negcache.exact.CLASSES", 9)
    monkeypatch.setitem(CHUNK_SCORES, "cpu", 1)  # a block of classes
    parts = head(hidden, target, reduction="none"), head.log_prob(hidden), *head.topk(hidden, 4)
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)


class Largest(TorchDispatchMode):
    """The numbers in the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **kwargs or {})
        made = [each for each in tree_leaves(found) if isinstance(each, torch.Tensor)]
        self.numbers = max([self.numbers, *(each.numel() for each in made)])
        return found


def test_an_evaluation_holds_a_few_rows_and_classes_at_a_time():
    head = nc.SoftmaxHead(40_000, D, padding_idx=0).eval()
    hidden, target = torch.randn(3, 1500, D), torch.randint(1, 40_000, (3, 1500))
    with Largest() as largest, torch.no_grad():
        head(hidden, target)
    assert largest.numbers <= 1 << 19
    with Largest() as largest:
        head.topk(hidden[:, :800], 3)
    assert largest.numbers <= 2048 * 8192


@pytest.mark.parametrize("padding_idx", [0, 17, -1])
def test_the_padding_is_in_no_softmax(padding_idx):
    head, hidden, _ = build(padding_idx=padding_idx)
    row = padding_idx % N
    others = torch.cat([torch.arange(row), torch.arange(row + 1, N)])
    assert head.padding_idx == row
    assert not head.table.weight[row].any()
    with torch.no_grad():
        head.table.weight[row] = 100.0  # it would be the best of all for some
    head.eval()
    log_p = head.log_prob(hidden)
    assert (log_p[..., row] == -torch.inf).all()
    torch.testing.assert_close(log_p.flatten(0, 1), all_logits(head, hidden).log_softmax(1))
    scores, classes = head.topk(hidden, N - 1)
    assert torch.equal(classes.sort().values, others.expand(B, T, -1))
    best = all_logits(head, hidden).topk(3)
    assert torch.equal(classes[..., :3].flatten(0, 1), best.indices)
    torch.testing.assert_close(scores[..., :3].flatten(0, 1), best.values)
    with pytest.raises(nc.InputError, match=f"at most the {N - 1} items"):
        head.topk(hidden, N)


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_sampler_draws_the_padding(name):
    unit = name == "random_features"

    def sampler(table, m):
        return Watched((SAMPLERS[name] or nc.CachedSoftmax)(table, m))

    head, hidden, target = build(sampler, padding_idx=PAD, normalize=unit, bias=False)
    with torch.no_grad():
        head.table.weight[PAD] = 3.0 * hidden.detach()[0, 0]  # any law would take to it
    target[1] = PAD
    for _ in range(4):
        loss = head(hidden, target)
        (grad,) = torch.autograd.grad(loss, head.table.weight)
        assert not grad[PAD].any()
    for drawn in head.sampler.draws:
        ids = drawn.ids.expand(len(drawn.log_weight), -1)
        ids = ids if drawn.columns is None else ids.gather(1, drawn.columns)
        assert (drawn.log_weight[ids == PAD] == -torch.inf).all()
        assert (drawn.log_weight > -torch.inf).any()


@pytest.mark.parametrize("name", ["uniform", "popularity", "quadratic", "random_features"])
def test_the_partition_without_the_padding_is_unbiased(name):
    unit = name == "random_features"
    head, hidden, target = build(SAMPLERS[name], padding_idx=PAD, normalize=unit, bias=not unit)
    with torch.no_grad():
        head.eval()
        log_p = head.log_prob(hidden).gather(2, target[..., None]).squeeze(2)
        head.train()
        losses = head(hidden.repeat(500, 1, 1), target.repeat(500, 1), reduction="none")
    ratios = losses.view(500, B, T).exp()  # of all mass, as it was drawn, to that of the target
    error = ratios.std(0) / len(ratios) ** 0.5
    assert ((ratios.mean(0) - (-log_p).exp()).abs() / error).max() < 4.5


def test_a_sparse_gradient_lacks_the_padding():
    head, hidden, target = build(SAMPLERS["full"], padding_idx=PAD, sparse=True)
    head(hidden, target).backward()
    assert head.table.weight.grad.coalesce().indices()[0].tolist() == list(range(1, N))


def test_rows_that_do_not_count_keep_their_place_among_processes(monkeypatch):
    """Else processes that leave out different numbers of rows would draw by the same noise."""

    class Asked(Watched):
        def draw(self, request, generator):
            self.place = request.first_row, request.total_rows
            return super().draw(request, generator)

    head, hidden, target = build(lambda table, m: Asked(nc.Uniform(table, m)))
    target[0, 1:] = -100
    for rank, size, place in ((0, 1, (0, 16)), (0, 2, (0, 40)), (1, 2, (20, 40))):
        mesh = Mesh()
        mesh.rank, mesh.size = rank, size
        monkeypatch.setattr(Mesh, "now", lambda mesh=mesh: mesh)
        with torch.no_grad():  # whose gradients would stay with one process
            head(hidden, target)
        assert head.sampler.place == place


@pytest.mark.parametrize("training", [True, False])
def test_padding_among_several_targets_counts_for_nothing(training):
    head, hidden, _ = build(SAMPLERS["full"], padding_idx=PAD)
    head.train(training)
    rows = hidden[0]
    padded = torch.tensor([[3, PAD], [PAD, PAD], [5, 9], [PAD, -1], [-100, 8]])
    plain = torch.tensor([[3, -1], [5, 9], [8, -1]])
    losses = head(rows, targets=padded, reduction="none")
    torch.testing.assert_close(
        losses[[0, 2, 4]], head(rows[[0, 2, 4]], targets=plain, reduction="none")
    )
    assert losses[[1, 3]].tolist() == [0, 0]
    torch.testing.assert_close(head(rows, targets=padded), losses.sum() / 3)


@pytest.mark.parametrize("training", [True, False])
def test_with_no_row_left_the_reductions_are_those_of_torch(training):
    head, hidden, target = build(padding_idx=PAD)
    head.train(training)
    nothing = torch.full_like(target, PAD)
    assert head(hidden, nothing).isnan()
    assert head(hidden, nothing, weight=torch.ones(B, T)).isnan()
    assert head(hidden, nothing, reduction="sum") == 0
    assert torch.equal(head(hidden, nothing, reduction="none").detach(), torch.zeros(B, T).double())


def test_one_hidden_state_without_a_batch():
    head, hidden, target = build()
    head.eval()
    loss = head(hidden[0, 0], target[0, 0], reduction="none")
    assert loss.shape == ()
    assert torch.equal(loss, head(hidden, target, reduction="none")[0, 0])
    assert head.topk(hidden[0, 0], 2)[1].shape == (2,)


@pytest.mark.parametrize("training", [True, False])
def test_what_does_not_fit_is_refused(training):
    head, hidden, target = build()
    head.train(training)
    with pytest.raises(nc.InputError, match=r"targets= \[\.\.\., p\]"):
        head(hidden[:, 0], target)
    with pytest.raises(nc.InputError, match=r"target of shape \(4, 5\)"):
        head(hidden, target.flatten())
    with pytest.raises(nc.InputError, match=r"targets of shape \(4, 5, 'p'\)"):
        head(hidden, targets=target)
    with pytest.raises(nc.InputError, match="exactly one of target and targets; got both"):
        head(hidden, target, targets=target[..., None])
    with pytest.raises(nc.InputError, match="a positive for every query"):
        head(hidden, targets=target[..., None].index_fill(0, torch.tensor([2]), -1))
    with pytest.raises(nc.InputError, match="got neither"):
        head(hidden)
    with pytest.raises(nc.InputError, match=r"weight of shape \(4, 5\)"):
        head(hidden, target, weight=torch.ones(N))
    with pytest.raises(nc.InputError, match=r"reduction .*; got 'batchmean'"):
        head(hidden, target, reduction="batchmean")
    for index in (N, -N - 1):
        with pytest.raises(nc.InputError, match="padding_idx between -60 and 59"):
            build(padding_idx=index)
