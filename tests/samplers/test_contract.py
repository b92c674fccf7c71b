"""What a sampler has to offer, and what it is told when it does not."""

import pytest
import torch
from roster import problem
from setting import N, Setting

import negcache as nc
from negcache.draws import draw
from negcache.samplers import Given


class Incomplete:
    """It promises a density and has no number of draws."""

    has_density, store = True, None

    def propose(self, request, generator):
        raise AssertionError("nobody asks")


class Silent:
    """No density, and no draw either."""

    has_density, store = False, None


@pytest.mark.parametrize(("kind", "lacks"), [(Incomplete, "num_negatives"), (Silent, "draw")])
def test_an_incomplete_sampler_is_told_what_it_lacks(kind, lacks):
    request, _, _ = problem()
    with pytest.raises(nc.InputError, match=f"{lacks}.*{kind.__name__}"):
        draw(kind(), request, torch.Generator())


def test_given_ids_beyond_the_corpus_are_refused():
    setting = Setting(lambda store: Given(torch.full((16, 1), N)))
    with pytest.raises(nc.InputError, match=f"between 0 and {N - 1}"):
        setting.forward()


def test_another_sampler_brings_its_own_store():
    """A loss keeps the store of the sampler that it has, and fills it before it is drawn from."""
    setting = Setting(lambda store: nc.CachedSoftmax(store, 4))
    setting.step()
    other = nc.DenseCache(N, 8)
    setting.loss.sampler = nc.CachedSoftmax(other, 4)
    assert setting.loss.store is other
    assert setting.step() > 0.1
    assert other.valid.all()
    assert other.clock == 1
