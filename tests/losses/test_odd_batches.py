"""What a loss and a head refuse of a batch, in training and in evaluation, before any work."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import negcache as nc

N, D, B = 50, 4, 8
IDS = torch.arange(B)
CORPUS = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))


def queries():
    return torch.randn(B, D, generator=torch.Generator().manual_seed(1))


def with_entry(value):
    spoilt = queries()
    spoilt[2, 1] = value
    return spoilt


def build(kind, corpus=CORPUS):
    if kind == "head":
        return nc.SoftmaxHead(N, D, num_samples=5)
    store = nc.DenseCache(N, D)
    sampler = {
        "cached": lambda: nc.SharedDraws(nc.CachedSoftmax(store, 2)),
        "auto": lambda: "auto",
        "uniform": lambda: nc.Uniform(range(N), 3),
    }[kind]()
    return nc.SoftmaxLoss(nn.Linear(6, D), corpus, sampler, nc.DotScore(0.1))


ODD = {
    "nan": (with_entry(torch.nan), IDS, "finite queries.*ids \\[2\\]"),
    "inf": (with_entry(torch.inf), IDS, "finite queries"),
    "integers": (queries().long(), IDS, "floating point numbers; got torch.int64"),
    "flags": (queries() > 0, IDS, "floating point numbers; got torch.bool"),
    "complex": (queries().to(torch.complex64), IDS, "got torch.complex64"),
    "a list": (queries().tolist(), IDS, "floating point numbers; got list"),
    "nothing": (None, IDS, "got NoneType"),
    "an array": (queries().numpy(), IDS, "got ndarray"),
    "no data": (queries().to("meta"), IDS, "meta device"),
    "dimensions": (torch.randn(B, D + 1), IDS, f"{D}"),
    "ids in a list": (queries(), IDS.tolist(), "torch.as_tensor"),
    "float ids": (queries(), IDS.float(), "as ids; got torch.float32"),
    "too few ids": (queries(), IDS[:5], r"\(5,\)"),
    "ids below": (queries(), IDS - 1, "got"),
    "ids above": (queries(), IDS + N, "got"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("kind", ["cached", "head"])
@pytest.mark.parametrize("name", ODD)
def test_what_is_no_batch_is_refused(name, kind, training):
    asked, ids, message = ODD[name]
    with pytest.raises(nc.InputError, match=message):
        build(kind).train(training)(asked, ids)


@pytest.mark.parametrize("kind", ["cached", "auto", "head"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_in_float32(kind, dtype):
    asked = queries().to(dtype)
    value = build(kind).eval()(asked, IDS)
    assert value.dtype == torch.float32
    assert value.isfinite()


@pytest.mark.parametrize("kind", ["cached", "auto"])
def test_queries_of_twice_the_precision_are_refused(kind):
    with pytest.raises(nc.InputError, match=r"queries of torch.float32.*same precision"):
        build(kind)(queries().double(), IDS)


class Grown:
    """A corpus whose length changes."""

    length = N

    def __len__(self):
        return self.length

    def __getitem__(self, ids):
        return CORPUS[ids % N]


@pytest.mark.parametrize("length", [N - 10, N + 10])
@pytest.mark.parametrize("kind", ["cached", "auto", "uniform"])
def test_a_corpus_that_changed_its_length_is_refused(kind, length):
    corpus = Grown()
    loss_fn = build(kind, corpus)
    loss_fn(queries(), IDS).backward()
    corpus.length = length
    with pytest.raises(nc.InputError, match=f"{length} items|{length} of"):
        loss_fn(queries(), IDS)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("kind", ["cached", "head"])
def test_a_loss_inside_a_checkpoint_is_refused(kind, reentrant):
    loss_fn, asked = build(kind), queries().requires_grad_()
    loss = checkpoint(loss_fn, asked, IDS, use_reentrant=reentrant)
    with pytest.raises(nc.InputError, match=r"outside torch.utils.checkpoint"):
        loss.backward()
