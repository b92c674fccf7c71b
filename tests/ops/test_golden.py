"""Golden vectors NC-1 to NC-4, NC-7, NC-11 and NC-15: scalar embeddings, scale 1, float64."""

import pytest
import torch
from torch import tensor

import negcache as nc
from negcache.estimators import cached_partition, log_q_corrected, softmax_loss
from negcache.messages import Draw
from negcache.metrics import Recorder
from negcache.testing import reference

F64 = torch.float64
QUERIES, STORED = tensor([-1.0, 1, 3], dtype=F64), tensor([1.0, -1], dtype=F64)
POSITIVES, PICKS = tensor([2.0, 2, 1], dtype=F64), tensor([0, 1, 0])


def close(ours, theirs, atol=1e-6):
    torch.testing.assert_close(ours, tensor(theirs, dtype=F64), atol=atol, rtol=0)


@pytest.mark.parametrize("stretch", [1.0, 2.0])  # NC-3: embeddings times 2, scores times 1/4
def test_values_and_surrogate(stretch):
    score = nc.DotScore(stretch**2, normalize=False).double()
    queries, store = stretch * QUERIES[:, None], stretch * STORED[:, None]
    positive = score.paired(queries, stretch * POSITIVES[:, None, None])[:, 0]
    log_z = torch.logsumexp(score(queries, store), dim=1)
    close(torch.sigmoid(positive - log_z), [0.042010066, 0.705384513, 0.499381079])  # NC-1
    losses = softmax_loss(positive, log_z[:, None])
    close(losses, [3.169846020, 0.349012217, 0.694385789])
    close(losses.mean(), 1.404414675)
    negative = score(queries, store).gather(1, PICKS[:, None])
    ours = reference.surrogate(positive, negative, log_z)
    close(ours, [0.957989934, -0.883846462, 0.0])  # NC-2
    close(ours.mean(), 0.024714491)


def cached_draw(log_z):
    zeros = torch.zeros(3, 1, dtype=F64)
    return Draw(tensor([0, 1]), PICKS[:, None], zeros, log_z, zeros)


def test_gradient_of_surrogate_and_cached_partition():
    """NC-4: the cached partition has the surrogate's gradient, and the value of NC-1."""
    for method in ("surrogate", "cached_partition"):
        u = torch.ones((), dtype=F64, requires_grad=True)
        v = torch.ones((), dtype=F64, requires_grad=True)
        positive = u * QUERIES * v * POSITIVES
        fresh = (u * QUERIES * v * STORED[PICKS])[:, None]
        log_z = torch.logsumexp(torch.outer(QUERIES, STORED), dim=1)
        if method == "surrogate":
            loss = reference.surrogate(positive, fresh, log_z).mean()
        else:
            loss = softmax_loss(positive, cached_partition(fresh, cached_draw(log_z))).mean()
            close(loss.detach(), 1.404414675)
        loss.backward()
        close(u.grad, 0.024714491)
        close(v.grad, 0.024714491)


def test_staleness():
    cached, fresh = STORED[:, None], tensor([[2.0], [-3.0]], dtype=F64)
    ours = reference.staleness(cached[PICKS * 1], fresh[PICKS])  # NC-7
    close(ours, [1 / 4, 4 / 9, 1 / 4])
    close(ours.mean(), 0.314814815)


def test_the_recorder_reports_the_same_staleness():
    """Items 0, 1 and 0 again: the report's mean is over the rows that it was given."""
    store, recorder = nc.DenseCache(2, 1, dtype=F64), Recorder()
    store.write(torch.arange(2), STORED[:, None])
    recorder.record_staleness(store, PICKS, tensor([2.0, -3, 2], dtype=F64)[:, None])
    assert recorder.report().staleness == pytest.approx(0.314814815, abs=1e-9)


def test_argmax():
    scores = tensor([[1.0, 0, 0], [100, 0, 0], [0, 0, -1]])
    noise = tensor([[0, 0.1, -0.1], [1, -2, 3.3], [0.1, -0.1, 2]])
    assert reference.gumbel_argmax(scores, noise).tolist() == [[0], [0], [2]]  # NC-11
    half = reference.gumbel_argmax(tensor([[1.0, 0, 0]]), tensor([[0, 0.9, 0]]), scale=0.5)
    assert half.tolist() == [[1]]
    plain = tensor([[1.0, 2, 0], [-1, 0, 3], [4, -1, -1]])
    assert reference.gumbel_argmax(plain, torch.zeros(3, 3)).tolist() == [[1], [2], [0]]


def test_stale_cache():
    """NC-15: log-q corrected and cached partition on a stale store, two draws = items 3, 0."""
    positive = tensor([1.0], dtype=F64)
    stale = tensor([0.5, -0.5, 0, 1], dtype=F64)
    fresh = tensor([0.7, -0.4, 0.1, 0.6], dtype=F64)
    log_z = torch.logsumexp(stale, 0)
    close(log_z, 1.787338672)
    close(stale.softmax(0), [0.276004345, 0.101536324, 0.167405097, 0.455054234])
    columns = tensor([[3, 0]])
    share = torch.full((1, 2), 0.5, dtype=F64).log()
    weight = share + log_z - stale[columns]
    draw = Draw(torch.arange(4), columns, weight, log_z[None], share)
    close(weight[0], [0.094191491, 0.594191491])
    close(softmax_loss(positive, log_q_corrected(fresh[columns], draw)), [1.124464720])
    close(softmax_loss(positive, cached_partition(fresh[columns], draw)), [1.162381846])
    close(draw.log_z + share[0] - fresh[columns][0], [0.494191491, 0.394191491])
    close(softmax_loss(positive, fresh[None]), [1.119820754])
