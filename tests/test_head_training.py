"""A softmax head in an ordinary training loop: dense optimizers, clipping, autocast, resume."""

import copy

import pytest
import torch
from torch import nn

import negcache as nc
from negcache.indexes.sums import KernelSums
from negcache.ops.kernels import Quadratic

N, D, B = 300, 8, 16


class Model(nn.Module):
    """Sixteen points, each of a class of its own, and a head."""

    def __init__(self, sampler=None, seed=0, classes=N, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.points = nn.Linear(B, D, dtype=torch.float64)
        settings |= {"dtype": torch.float64, "seed": seed}
        self.head = nc.SoftmaxHead(classes, D, sampler, 8, **settings)

    def forward(self):
        return self.head(self.points(torch.eye(B, dtype=torch.float64)), torch.arange(B))


def train(model, optimizer, steps, accumulated=1):
    losses = []
    for _ in range(steps):
        for _ in range(accumulated):
            loss = model() / accumulated
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses)


def summed_now(head):
    """The sums of the head's rows as they are."""
    fresh = KernelSums(head.table, Quadratic())
    fresh.build(torch.zeros(1, D + 1, dtype=torch.float64), torch.tensor(1.0))
    return fresh.levels[0]


@pytest.mark.slow
@pytest.mark.parametrize("sampler", [None, nc.quadratic, nc.Uniform])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_adamw_and_clipping_train_a_head(sampler, accumulated):
    model = Model(sampler)
    train(model, torch.optim.AdamW(model.parameters(), lr=0.05), 200, accumulated)
    model.eval()
    assert model() < 0.5


def test_sums_start_anew_where_a_dense_optimizer_moves_what_nobody_looked_up():
    model = Model(nc.quadratic, classes=3000)  # more than are looked up in all steps together
    head = model.head
    assert head.table.renew_every == 100
    head.table.renew_every = 4
    builds, build = [], head.sampler.sums._build
    head.sampler.sums._build = lambda *given: [builds.append(1), build(*given)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=1.0)
    for step in range(1, 13):
        train(model, optimizer, 1)
        model()  # tells of the step
        now, fresh = head.sampler.sums.levels[0], summed_now(head)
        error = float((now - fresh).norm() / fresh.norm())
        assert (error < 1e-12) == (step % 4 == 0), (step, error)
    assert len(builds) == 1 + 3


def test_sums_follow_sparse_gradients_without_starting_anew():
    model = Model(nc.quadratic, sparse=True)
    assert model.head.table.renew_every is None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(120):
        model().backward()
        optimizer.step()
        optimizer.zero_grad()
    model()
    torch.testing.assert_close(model.head.sampler.sums.levels[0], summed_now(model.head))


def test_resume_between_two_renewals_equals_never_having_stopped():
    def start(seed):
        model = Model(nc.quadratic, seed)
        model.head.table.renew_every = 5
        return model, torch.optim.AdamW(model.parameters(), lr=0.05)

    model, optimizer = start(0)
    train(model, optimizer, 8)
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    onward = train(model, optimizer, 9)
    other, again = start(7)
    train(other, again, 2)
    other.load_state_dict(state[0])
    again.load_state_dict(state[1])
    assert torch.equal(train(other, again, 9), onward)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sampler", [None, nc.quadratic])
def test_under_autocast_the_loss_is_float32_and_near_that_without(dtype, sampler):
    torch.manual_seed(0)
    body, hidden = nn.Linear(D, D), torch.randn(2, B, D)
    target = torch.randint(0, N, (2, B))
    losses, grads = [], []
    for cast in (True, False):
        torch.manual_seed(1)
        head = nc.SoftmaxHead(N, D, sampler, 8, padding_idx=0)
        with torch.autocast("cpu", dtype, enabled=cast):
            loss = head(body(hidden), target)
        loss.backward()
        losses.append(loss)
        grads.append(head.table.weight.grad)
        head.eval()
        with torch.autocast("cpu", dtype, enabled=cast):
            losses.append(head(body(hidden), target))
    assert all(loss.dtype == torch.float32 for loss in losses)
    torch.testing.assert_close(losses[:2], losses[2:], atol=0.05, rtol=0)
    torch.testing.assert_close(*grads, atol=0.05, rtol=0)


def test_a_frozen_table_trains_the_rest():
    model = Model(nc.quadratic)
    model.head.classes.weight.requires_grad_(False)
    before = model.head.weight.clone()
    train(model, torch.optim.AdamW(model.points.parameters(), lr=0.05), 3)
    assert torch.equal(model.head.weight, before)
    assert not model.head.table.touched
