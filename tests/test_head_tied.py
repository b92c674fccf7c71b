"""A head whose classes are the rows of an embedding: one table, trained and saved once."""

import copy

import processes
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

import negcache as nc

N, D, B, T = 200, 6, 8, 5


class NextItem(nn.Module):
    """Items seen -> the next one, over one table; item 0 is padding."""

    def __init__(self, sampler=None, dtype=torch.float64, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.items = nn.Embedding(N, D, padding_idx=0, dtype=dtype, **settings)
        self.body = nn.Linear(D, D, dtype=dtype)
        self.head = nc.SoftmaxHead.tied(self.items, sampler, num_samples=6)

    def forward(self, seen):
        return self.head(self.body(self.items(seen[:, :-1])), seen[:, 1:])


def sequences(seed=1):
    found = torch.randint(1, 40, (B, T), generator=torch.Generator().manual_seed(seed))
    return found.index_fill_(0, torch.tensor([0, 3]), 0)


def train(model, steps, kind=torch.optim.AdamW):
    optimizer = kind(model.parameters(), lr=0.05)
    for step in range(steps):
        model(sequences(step % 3)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def same(one, other):
    one.eval(), other.eval()
    with torch.no_grad():
        return torch.equal(one(sequences()), other(sequences()))


def test_the_gradient_is_the_sum_of_both_uses():
    model, seen = NextItem(lambda table, m: nc.FullSoftmax(table)), sequences()
    hidden = model.body(model.items(seen[:, :-1])).flatten(0, 1)
    logits = F.linear(hidden, model.items.weight)[:, 1:]
    target = seen[:, 1:].flatten() - 1
    truth = F.cross_entropy(logits, target, ignore_index=-1)
    wanted = [*model.parameters()]
    wanted = [each for each in wanted if each.requires_grad]
    exact = torch.autograd.grad(truth, wanted)
    loss = model(seen)
    torch.testing.assert_close(loss, truth, atol=1e-10, rtol=0)
    for got, right in zip(torch.autograd.grad(loss, wanted), exact, strict=True):
        torch.testing.assert_close(got, right, atol=1e-10, rtol=0)


@pytest.mark.parametrize("sampler", [None, nc.quadratic, nc.Uniform])
def test_both_uses_move_the_same_rows_and_train(sampler):
    model = NextItem(sampler)
    table = model.items.weight
    assert [each for each in model.parameters() if each.shape == (N, D)] == [table]
    assert model.head.weight.data_ptr() == table.data_ptr()
    before, first = table.detach().clone(), float(model.eval()(sequences()))
    train(model.train(), 60)
    assert not torch.equal(before, table)
    assert not table[0].any(), "the padding stays"
    assert model.eval()(sequences()) < first - 1


def test_with_a_sparse_embedding_the_gradient_is_sparse():
    model = NextItem(sparse=True)
    model(sequences()).backward()
    assert model.items.weight.grad.is_sparse
    assert model.head.table.renew_every, "rows move by the other use too"


@pytest.mark.parametrize("sampler", [None, nc.quadratic])
def test_the_model_is_saved_by_safetensors_and_loaded(sampler, tmp_path):
    model, path = train(NextItem(sampler), 7), tmp_path / "model.safetensors"
    for save in (
        safetensors.torch.save_model,
        lambda model, path: safetensors.torch.save_file(model.state_dict(), path),
    ):
        save(model, path)
        assert "head.classes.weight" not in safetensors.torch.load_file(path)
        one, other = train(NextItem(sampler), 2), train(NextItem(sampler), 3)
        safetensors.torch.load_model(one, path)
        other.load_state_dict(safetensors.torch.load_file(path))
        assert same(one, model)
        assert same(other, model)
        ours, theirs = (each.train()(sequences()) for each in (one, copy.deepcopy(model)))
        assert torch.equal(ours, theirs), "the generator and the sums too"


@pytest.mark.parametrize("sampler", [None, nc.quadratic])
def test_a_copy_is_tied_to_its_own_embedding(sampler):
    model = train(NextItem(sampler), 3)
    other = copy.deepcopy(model)
    assert other.head.table.weight is other.items.weight is not model.items.weight
    kept = model.items.weight.detach().clone()
    train(other, 2)
    assert torch.equal(model.items.weight, kept)
    train(model, 2)
    assert same(model, other)


@pytest.mark.parametrize("kind", ["head", "items"])
def test_the_sampler_moves_with_the_model_whichever_part_is_moved_first(kind):
    by_counts = train(NextItem(lambda table, m: nc.Popularity(torch.arange(1, N + 1), m)), 1)
    by_sums = train(NextItem(nc.quadratic), 1)
    for model in (by_counts, by_sums):
        getattr(model, kind).to("meta")
        model.to("meta")
    assert by_counts.head.sampler.log_q.device.type == "meta"
    assert by_sums.head.sampler.sums.levels[0].device.type == "meta"


def test_another_weight_of_the_embedding_is_seen():
    model = NextItem().float()
    assert model.head.weight.dtype == torch.float32
    model.items.weight = nn.Parameter(torch.zeros(N, D))
    assert not model.head.weight.any()


def test_settings_that_the_embedding_decides():
    table = nn.Module()
    table.weight = nn.Parameter(torch.randn(N, D))
    assert nc.SoftmaxHead.tied(table).padding_idx is None
    assert nc.SoftmaxHead.tied(table, padding_idx=3).padding_idx == 3
    assert nc.SoftmaxHead.tied(nn.Embedding(N, D, padding_idx=-1)).padding_idx == N - 1
    assert nc.SoftmaxHead.tied(nn.Embedding(N, D), normalize=True, temperature=0.1).bias is None
    with pytest.raises(nc.InputError, match=r"weight \[N, D\].*got bias, sparse"):
        nc.SoftmaxHead.tied(table, sparse=True, bias=True)
    for other in (nn.ReLU(), nn.LayerNorm(D)):
        with pytest.raises(nc.InputError, match=rf"got {type(other).__name__}"):
            nc.SoftmaxHead.tied(other)
    with pytest.raises(nc.InputError, match="bias=False with an embedding"):
        nc.SoftmaxHead(N, D, embedding=table)


SCRIPT = """
import sys, torch, negcache as nc
from torch.nn.parallel import DistributedDataParallel
from processes import met
from test_head_tied import NextItem, sequences
folder, rank, world, name = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
full = lambda table, m: nc.FullSoftmax(table)
sampler = {"default": None, "quadratic": nc.quadratic, "full": full}[name]
with met(folder, rank, world):
    model = NextItem(sampler)
    trained = DistributedDataParallel(model) if world > 1 else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    model.head.table.renew_every = 2
    for step in range(5):
        seen = sequences(step)[[1, 2, 0, 4, 5, 3]]  # as many rows that count on each process
        trained(seen[rank * 6 // world : (rank + 1) * 6 // world]).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save(model.items.weight.detach(), f"{folder}/{name}-{rank}-of-{world}.pt")
"""


@pytest.mark.parametrize("name", ["default", "full", "quadratic"])
def test_two_processes_keep_one_table(name, tmp_path):
    """With every class drawn, that of one process with the whole batch; padding does not count."""
    found, script = [], tmp_path / "script.py"
    script.write_text(SCRIPT)
    for world in (1, 2):
        processes.run(script, tmp_path, world, name)
        found += [torch.load(tmp_path / f"{name}-{rank}-of-{world}.pt") for rank in range(world)]
    alone, first, second = found
    assert torch.equal(first, second)
    if name == "full":
        torch.testing.assert_close(alone, first, atol=1e-9, rtol=0)
    assert not first[0].any()
