"""Built on the meta device, without data, then given memory and a state: as if built with both."""

import pytest
import torch
from torch import nn

import negcache as nc

N, D = 300, 6

SAMPLERS = {"default": None, "quadratic": nc.quadratic, "uniform": nc.Uniform}


class Tied(nn.Module):
    """Its head, named first, is given memory before the embedding is."""

    def __init__(self, sampler):
        super().__init__()
        items = nn.Embedding(N, D)
        self.head, self.items = nc.SoftmaxHead.tied(items, sampler, 5), items

    def forward(self, *batch):
        return self.head(*batch)


def live_loss(sampler):
    items = nn.Embedding(N, D)
    draws = (sampler or nc.CachedSoftmax)(nc.LiveTable(items), 5)
    return nc.SoftmaxLoss(items, torch.arange(N, device="cpu"), draws, nc.DotScore(0.3))


KINDS = {"head": lambda sampler: nc.SoftmaxHead(N, D, sampler, 5), "tied": Tied, "loss": live_loss}


def batch():
    return torch.randn(4, D, generator=torch.Generator().manual_seed(1)), torch.arange(4)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("kind", KINDS)
def test_with_a_loaded_state_it_goes_on(kind, name, assign):
    trained = KINDS[kind](SAMPLERS[name])
    trained(*batch()).backward()
    with torch.device("meta"):
        empty = KINDS[kind](SAMPLERS[name])
    if not assign:
        empty.to_empty(device="cpu")
    empty.load_state_dict(trained.state_dict(), assign=assign)
    losses = [module(*batch()) for module in (trained, empty)]
    assert torch.equal(*losses)
    losses[1].backward()


def test_a_sampler_whose_data_is_lost_is_refused_and_a_real_one_is_not():
    """Frequencies of random features are in no parameter: memory alone would be noise."""
    settings = {"bias": False, "normalize": True, "temperature": 0.2}
    with torch.device("meta"):
        lost = nc.SoftmaxHead(N, D, nc.rf_softmax, 5, **settings)
    with pytest.raises(nc.InputError, match="a sampler that was built with its data"):
        lost.to_empty(device="cpu")
    trained = nc.SoftmaxHead(N, D, nc.rf_softmax, 5, **settings)
    trained(*batch()).backward()
    empty = nc.SoftmaxHead(N, D, nc.rf_softmax, 5, device="meta", **settings)
    empty.to_empty(device="cpu").load_state_dict(trained.state_dict())
    assert torch.equal(trained(*batch()), empty(*batch()))
