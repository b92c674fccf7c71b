"""P@k and PSP@k against numbers worked out by hand, and against a plain loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from negcache import DotScore, InputError, KnownPositives
from negcache.run.evaluation import evaluate_labels, inverse_propensity, label_metrics


def truth(*rows):
    points = torch.tensor([i for i, row in enumerate(rows) for _ in row], dtype=torch.int64)
    labels = torch.tensor([label for row in rows for label in row], dtype=torch.int64)
    return KnownPositives.from_pairs(points, labels, len(rows))


def test_propensity_by_hand():
    # N = e^2: C = (2 - 1) (B + 1)^A; with A = 1, B = 1: C = 2, 1/p = 1 + 2 / (n + 1)
    got = inverse_propensity(torch.tensor([0, 1, 3]), round(math.exp(2)), a=1.0, b=1.0)
    c = 2 * (math.log(7) - 1)
    assert got.tolist() == pytest.approx([1 + c, 1 + c / 2, 1 + c / 4])
    # the defaults for N = 1000, n = 10: C = 5.907755 * 2.5^0.55 = 9.778889; 11.5^-0.55 = 0.260985
    assert inverse_propensity(torch.tensor([10]), 1000).item() == pytest.approx(3.552147, abs=1e-5)
    with pytest.raises(InputError, match="at least 3 training points; got 2"):
        inverse_propensity(torch.tensor([1]), 2)


def test_metrics_by_hand():
    found = torch.tensor([[0, 1, 2, 3, 4], [5, 0, 4, 1, 2], [3, 2, 1, 0, 4]])
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    got = label_metrics(found, truth([0, 2], [4], []), weights)
    assert got == pytest.approx(
        {
            "p1": 1 / 3,  # label 0 of the first point; the point without labels counts
            "p3": 3 / 9,  # 0 and 2; 4
            "p5": 3 / 15,
            "psp1": 1 / (3 + 5),  # best first labels: 2 (weight 3) and 4 (weight 5)
            "psp3": 1.0,  # all three true labels are among the first three
            "psp5": 1.0,
        }
    )


POINTS = st.lists(st.lists(st.integers(0, 8), unique=True, max_size=8), min_size=1, max_size=5)


@settings(deadline=None)
@given(labels=POINTS, seed=st.integers(0, 99))
def test_metrics_against_a_plain_loop(labels, seed):
    generator = torch.Generator().manual_seed(seed)
    found = torch.rand(len(labels), 9, generator=generator).argsort(dim=1)
    weights = 1 + 5 * torch.rand(9, generator=generator)
    got = label_metrics(found, truth(*labels), weights)
    for k in (1, 3, 5):
        hits = [[w for w in row[:k] if w in own] for row, own in zip(found.tolist(), labels)]  # noqa: B905
        gain = sum(weights[label].item() for row in hits for label in row)
        best = sum(sum(sorted(weights[own].tolist(), reverse=True)[:k]) for own in labels)
        assert got[f"p{k}"] == pytest.approx(sum(map(len, hits)) / (k * len(labels)))
        assert got[f"psp{k}"] == pytest.approx(gain / best if best else 0.0)


def test_search_and_metrics_agree():
    labels = torch.eye(6)
    points = torch.tensor([[0.1, 0.9, 0.2, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.3, 0.2, 0.9]])
    chunks = zip(torch.arange(6).split(2), labels.split(2), strict=True)
    got = evaluate_labels(points, chunks, DotScore(1.0), truth([1, 2], [0]), torch.ones(6))
    assert (got["p1"], got["p3"]) == (0.5, pytest.approx(2 / 6))
    assert got["psp1"] == 0.5


def test_labels_in_one_tensor_are_refused(unchecked):
    with pytest.raises(InputError, match=r"one tensor of shape \(6, 6\).*pass encoded"):
        evaluate_labels(torch.eye(6), torch.eye(6), DotScore(1.0), truth([1]), torch.ones(6))


def test_too_few_labels_found():
    with pytest.raises(
        InputError, match=r"5 labels for each of 1 points; got found of shape \(1, 3"
    ):
        label_metrics(torch.tensor([[0, 1, 2]]), truth([0]), torch.ones(3))
    with pytest.raises(InputError, match="each of 2 points"):
        label_metrics(torch.arange(5)[None], truth([0], [1]), torch.ones(5))
