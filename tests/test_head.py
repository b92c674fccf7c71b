"""The softmax head against ``cross_entropy`` over all classes."""

import copy
from functools import partial

import pytest
import torch
from pace import slow
from torch.nn import functional as F

import negcache as nc
from negcache.draws import draw
from negcache.indexes.sums import KernelSums
from negcache.ops.kernels import Quadratic

N, D, B = 400, 12, 9

SAMPLERS = {
    "quadratic": nc.quadratic,
    "lagging": partial(nc.quadratic, update_every=3),
    "uniform": nc.Uniform,
    "log_uniform": nc.samplers.log_uniform,
    "cached": nc.CachedSoftmax,
    "unigram": lambda table, m: nc.Popularity(torch.arange(1, N + 1), m, power=1.0),
    "shared": lambda table, m: nc.SharedDraws(nc.Uniform(table, m)),
}
QUICK = {"quadratic", "shared"}
"""Whose partition is among the fast tests: a kernel, and one draw for all."""


def build(sampler=nc.quadratic, num_samples=8, *, sparse=True, **settings):
    torch.manual_seed(0)
    head = nc.SoftmaxHead(N, D, sampler, num_samples, sparse=sparse, **settings).double()
    noise = torch.Generator().manual_seed(1)
    hidden = torch.randn(B, D, generator=noise, dtype=torch.float64)
    return head, hidden, torch.randint(0, N, (B,), generator=noise)


def optimizer(head):
    return torch.optim.SparseAdam([p for p in head.parameters() if p.requires_grad], lr=0.05)


def steps(head, optimizer, count, seed=2):
    """Train on random rows; the losses."""
    noise, losses = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        hidden = torch.randn(B, D, generator=noise, dtype=torch.float64)
        loss = head(hidden, torch.randint(0, N, (B,), generator=noise))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def everything(head, hidden):
    """Logits of all classes, as ``nn.Linear`` would give them."""
    return F.linear(hidden, head.weight, head.bias)


@pytest.mark.parametrize("bias", [True, False])
def test_evaluation_is_cross_entropy_over_all_classes(bias):
    head, hidden, target = build(bias=bias)
    truth = F.cross_entropy(everything(head, hidden), target)
    head.eval()
    torch.testing.assert_close(head(hidden, target), truth, atol=1e-10, rtol=0)
    picked = head.log_prob(hidden)[torch.arange(B), target]
    torch.testing.assert_close(-picked.mean(), truth, atol=1e-10, rtol=0)
    scores, classes = head.topk(hidden, 5)
    best = everything(head, hidden).topk(5)
    torch.testing.assert_close(scores, best.values)
    assert torch.equal(classes, best.indices)


def test_absolute_and_normalised_evaluation():
    head, hidden, target = build(absolute=True)
    head.eval()
    truth = F.cross_entropy(everything(head, hidden).abs(), target)
    torch.testing.assert_close(head(hidden, target), truth, atol=1e-10, rtol=0)
    head, hidden, target = build(normalize=True, bias=False, temperature=0.1)
    head.eval()
    logits = F.normalize(hidden) @ F.normalize(head.weight).T * 10
    truth = F.cross_entropy(logits, target)
    torch.testing.assert_close(head(hidden, target), truth, atol=1e-6, rtol=0)


def test_every_class_sampled_once_is_cross_entropy_value_and_gradient():
    head, hidden, target = build(lambda table, m: nc.FullSoftmax(table), sparse=False)
    hidden.requires_grad_()
    ours = torch.autograd.grad(head(hidden, target), [hidden, head.table.weight])
    truth = F.cross_entropy(everything(head, hidden), target)
    exact = torch.autograd.grad(truth, [hidden, head.table.weight])
    for got, wanted in zip(ours, exact, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("num_samples", [1, 8])
def test_draws_from_the_softmax_itself_give_the_exact_value_draw_by_draw(num_samples):
    """Theorem 2.1: s_j - log(m q_j) = log(Z- / m) for every j."""
    head, hidden, target = build(nc.CachedSoftmax, num_samples)
    for _ in range(3):
        truth = F.cross_entropy(everything(head, hidden), target)
        torch.testing.assert_close(head(hidden, target), truth, atol=1e-10, rtol=0)
        steps(head, optimizer(head), 1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "sampler",
    [SAMPLERS[name] if name in QUICK else slow(SAMPLERS[name]) for name in SAMPLERS],
    ids=SAMPLERS,
)
def test_the_partition_is_unbiased(sampler):
    head, hidden, target = build(sampler, 4)
    logits = everything(head, hidden).detach()
    own = logits[torch.arange(B), target]
    estimates = []
    for _ in range(400):
        drawn = draw(head.sampler, _request(head, hidden, target), head.generators.training)
        chosen = logits[:, drawn.ids]
        columns = chosen if drawn.columns is None else chosen.gather(1, drawn.columns)
        estimates.append((columns + drawn.log_weight).exp().sum(1))
    estimates = torch.stack(estimates)
    truth = logits.exp().sum(1) - own.exp()
    error = estimates.std(0) / len(estimates) ** 0.5 + 1e-9
    assert ((estimates.mean(0) - truth).abs() / error).max() < 4.5


def _request(head, hidden, target):
    exclude = nc.exclusion.Exclusion.from_pairs(torch.arange(B), target, B)
    return nc.messages.Request(F.pad(hidden, (0, 1), value=1.0), head.score, target, exclude)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_only_touched_rows_move(sampler):
    head, hidden, target = build(sampler)
    before, step = head.table.weight.detach().clone(), optimizer(head)
    loss = head(hidden, target)
    encoded = head.report().encoded_grad
    loss.backward()
    assert head.table.weight.grad.is_sparse
    touched = head.table.weight.grad.coalesce().indices()[0]
    assert len(touched) == encoded <= B * 9
    step.step()
    moved = (head.table.weight != before).any(dim=1).nonzero()[:, 0]
    assert set(target.tolist()) <= set(moved.tolist()) <= set(touched.tolist())


@pytest.mark.parametrize("accumulated", [1, 3])
def test_sums_are_told_after_the_optimizer_step(accumulated):
    """At the next call the sums are those of the table as it is, with accumulation too."""
    head, hidden, target = build()
    step = optimizer(head)
    for _ in range(4):
        for part in range(accumulated):
            head(hidden.roll(part, 0), target.roll(part)).backward()
        old = head.sampler.sums.levels[0].clone()
        step.step()
        step.zero_grad()
        head(hidden, target)
        fresh = KernelSums(head.table, Quadratic())
        fresh.build(torch.zeros(1, D + 1, dtype=torch.float64), torch.tensor(1.0))
        now = head.sampler.sums.levels[0]
        torch.testing.assert_close(now, fresh.levels[0], atol=1e-10, rtol=0)
        assert not torch.equal(now, old)


def test_several_targets_do_not_compete():
    """Methods 0: the mean over a row's targets of -log(exp(s) / (exp(s) + Z-)), exact in eval."""
    head, hidden, _ = build()
    target = torch.tensor([[0, 5, 9], [1, -1, -1], [2, 3, -1]] * 3)
    head.eval()
    logits = everything(head, hidden)
    losses = []
    for row, own in enumerate(target):
        own = own[own >= 0]
        kept = torch.ones(N, dtype=torch.bool).index_fill_(0, own, False)
        negatives = logits[row, kept].logsumexp(0)
        losses.append((torch.logaddexp(logits[row, own], negatives) - logits[row, own]).mean())
    truth = torch.stack(losses).mean()
    torch.testing.assert_close(head(hidden, targets=target), truth, atol=1e-10, rtol=0)
    head.train()
    assert torch.isfinite(head(hidden, targets=target))


@pytest.mark.parametrize("name", [slow("quadratic"), "lagging", slow("cached")])
def test_resume_equals_never_having_stopped(name):
    head, _, _ = build(SAMPLERS[name])
    step = optimizer(head)
    steps(head, step, 20)
    state = copy.deepcopy((head.state_dict(), step.state_dict()))
    onward = steps(head, step, 30, seed=3)
    other, _, _ = build(SAMPLERS[name], seed=7)
    steps(other, optimizer(other), 2)
    other.load_state_dict(state[0])
    again = optimizer(other)
    again.load_state_dict(state[1])
    assert torch.equal(steps(other, again, 30, seed=3), onward)
    assert torch.equal(other.table.weight, head.table.weight)


def test_weights_can_be_taken_from_a_linear_layer():
    linear = torch.nn.Linear(D, N).double()
    head, hidden, target = build()
    with torch.no_grad():
        head.weight.copy_(linear.weight)
        head.bias.copy_(linear.bias)
    head.eval()
    truth = F.cross_entropy(linear(hidden), target)
    torch.testing.assert_close(head(hidden, target), truth, atol=1e-10, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_training_learns(name):
    head, hidden, target = build(SAMPLERS[name], 16)
    step = optimizer(head)
    for _ in range(300):
        loss = head(hidden, target)
        step.zero_grad()
        loss.backward()
        step.step()
    head.eval()
    assert head(hidden, target) < 0.5
    assert (head.topk(hidden, 1)[1][:, 0] == target).all()


def test_bad_input_is_refused():
    head, hidden, target = build()
    for mode in (head.train, head.eval):
        mode()
        with pytest.raises(nc.InputError, match="positives between 0 and 399"):
            head(hidden, target + N)
        with pytest.raises(nc.InputError, match=r"hidden of shape \[\.\.\., 12\]"):
            head(hidden[:, :5], target)
    with pytest.raises(nc.InputError, match="num_negatives"):
        build(num_samples=0)
    with pytest.raises(nc.InputError, match="bias"):
        build(normalize=True)
    with pytest.raises(nc.InputError, match="counts"):
        build(lambda table, m: nc.Popularity(torch.arange(N), m))
    with torch.no_grad():
        head.weight[3] = torch.nan
    head.train()
    with pytest.raises(nc.InputError, match="finite"):
        head(hidden, target)


def test_multi_hot_targets_are_refused():
    head, hidden, target = build()
    with pytest.raises(nc.InputError, match="multi-hot"):
        head(hidden, targets=F.one_hot(target, N))


def test_weights_loaded_by_assignment_are_seen_by_every_part():
    head, hidden, target = build()
    head(hidden, target)
    state = {k: v.clone() if torch.is_tensor(v) else v for k, v in head.state_dict().items()}
    other, _, _ = build(seed=3)
    other.load_state_dict(state, assign=True)
    assert other.table.weight is other.classes.weight
    other.eval()
    truth = F.cross_entropy(everything(head, hidden), target)
    torch.testing.assert_close(other(hidden, target), truth, atol=1e-10, rtol=0)


def test_sums_start_anew_from_the_state_of_a_sampler_that_had_none():
    uniform, hidden, target = build(nc.samplers.log_uniform)
    head, _, _ = build(nc.quadratic, seed=7)
    steps(uniform, optimizer(uniform), 3)
    head(hidden, target)
    head.load_state_dict(uniform.state_dict())
    assert head.sampler.sums.levels == []
    assert torch.equal(head.table.weight, uniform.table.weight)
    assert head(hidden, target).isfinite()


def test_training_goes_on_after_a_call_in_inference_mode_and_in_another_dtype():
    head, hidden, target = build(sparse=False)
    with torch.inference_mode():
        head(hidden, target)
    step = torch.optim.SGD([head.table.weight], lr=0.1)
    for _ in range(2):
        head(hidden, target).backward()
        step.step()
    head.float()
    assert torch.isfinite(head(hidden.float(), target))
