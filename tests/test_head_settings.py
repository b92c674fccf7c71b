"""Settings of the softmax head: ignored rows, device and dtype, tied tables, clipped gradients."""

import pytest
import torch
from torch.nn import functional as F

import negcache as nc

N, D, B = 400, 12, 9


def build(*, sparse=True, **settings):
    torch.manual_seed(0)
    settings |= {"sparse": sparse, "dtype": torch.float64}
    head = nc.SoftmaxHead(N, D, num_samples=8, **settings).double()
    noise = torch.Generator().manual_seed(1)
    hidden = torch.randn(B, D, generator=noise, dtype=torch.float64)
    return head, hidden, torch.randint(0, N, (B,), generator=noise)


def everything(head, hidden):
    """Logits of all classes, as ``nn.Linear`` would give them."""
    return F.linear(hidden, head.weight, head.bias)


def same_loss(head, hidden, target, ignored, several=False):
    """What the loss of all rows is, and that of the rows that count by themselves."""

    def loss(hidden, target):
        return (
            head(hidden, targets=target[:, None].expand(-1, 2)) if several else head(hidden, target)
        )

    kept = torch.tensor([row not in ignored for row in range(B)])
    start = head.generators.training.get_state()
    rows = hidden.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(rows, target), rows) if head.training else (None,)
    head.generators.training.set_state(start)
    value = loss(hidden, target)
    head.generators.training.set_state(start)
    torch.testing.assert_close(value, loss(hidden[kept], target[kept]), atol=0, rtol=0)
    if grad is not None:
        assert (grad[~kept] == 0).all()
        assert (grad[kept] != 0).any(dim=1).all()
    return value


@pytest.mark.parametrize("several", [False, True])
def test_ignored_rows_count_for_nothing(several):
    head, hidden, target = build()
    target[[1, 4]] = -100
    same_loss(head, hidden, target, (1, 4), several)
    looked_up = head.report().encoded_grad
    assert looked_up <= 3 * (B - 2) * 9, "nothing is drawn for them"
    head.eval()
    value = same_loss(head, hidden, target, (1, 4))
    truth = F.cross_entropy(everything(head, hidden), target)
    torch.testing.assert_close(value, truth, atol=1e-10, rtol=0)
    other, _, _ = build(ignore_index=7)
    other.eval()
    target = target.clamp_min(0).index_fill_(0, torch.tensor([2]), 7)
    truth = F.cross_entropy(everything(other, hidden), target, ignore_index=7)
    torch.testing.assert_close(other(hidden, target), truth, atol=1e-10, rtol=0)


def test_with_every_row_ignored_the_loss_is_nan_without_gradient_as_in_torch():
    head, hidden, target = build()
    loss = head(hidden.requires_grad_(), torch.full_like(target, -100))
    loss.backward()
    assert loss.isnan()
    assert (hidden.grad == 0).all()
    assert head.table.weight.grad.is_sparse
    assert not head.table.weight.grad.coalesce().values().numel()
    head.eval()
    assert head(hidden, torch.full_like(target, -100)).isnan()


def test_device_and_dtype_are_those_of_the_table():
    head = nc.SoftmaxHead(N, D, num_samples=4, device="cpu", dtype=torch.float64)
    assert head.weight.dtype == head.bias.dtype == torch.float64
    assert nc.SoftmaxHead(N, D, nc.Uniform, device="meta").weight.device.type == "meta"
    loss = head(torch.randn(B, D, dtype=torch.float64), torch.arange(B))
    assert loss.dtype == torch.float64
    assert loss.isfinite()


def test_an_embedding_of_another_shape_is_refused():
    for rows, columns in ((N + 1, D), (N, D - 1)):
        with pytest.raises(nc.InputError, match=rf"shape \({N}, {D}\); got \({rows}, {columns}\)"):
            nc.SoftmaxHead(N, D, bias=False, embedding=torch.nn.Embedding(rows, columns))


@pytest.mark.parametrize(
    ("absolute", "wanted"), [(False, nc.CachedSoftmax), (True, nc.samplers.KernelSoftmax)]
)
def test_the_default_draws_are_what_was_best_for_the_softmax_at_hand(absolute, wanted):
    """docs/classifiers.md: the softmax itself; an even kernel where the softmax is even too."""
    head, hidden, target = build(absolute=absolute)
    assert type(head.sampler) is wanted
    assert head.sampler.num_negatives == 8
    if not absolute:  # every draw gives the exact value
        truth = F.cross_entropy(everything(head, hidden), target)
        torch.testing.assert_close(head(hidden, target), truth, atol=1e-10, rtol=0)


def test_sparse_gradients_are_clipped_by_their_norm():
    """As docs/classifiers.md says; ``clip_grad_norm_`` itself refuses sparse gradients."""
    head, hidden, target = build()
    weight = head.table.weight
    (100 * head(hidden, target)).backward()
    with pytest.raises(NotImplementedError):
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
    weight.grad = weight.grad.coalesce()
    total = torch.nn.utils.get_total_norm([weight.grad.values()])
    torch.testing.assert_close(total, weight.grad.to_dense().norm())
    wanted = weight.grad.to_dense() / total
    torch.nn.utils.clip_grads_with_norm_([weight], 1.0, total)
    torch.testing.assert_close(weight.grad.to_dense(), wanted, atol=1e-6, rtol=0)
