"""A low-rank cache by hand, in each of some processes: what ``sharded_settings`` finds of it."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from sharded_training import D, N, normal

import negcache as nc
from negcache.packing import add_up


class Ear:
    """An observer that keeps which rows were let go."""

    def __init__(self):
        self.gone = []

    def rows_changed(self, change):
        self.gone.append(change.slots[~change.is_valid])

    def invalidate(self):
        pass

    def state_dict(self):
        return {}


def coordinates(rank, world):
    """Items leave a low-rank cache and its refresh, come back, and more are added; by hand."""
    settings = {
        "landmarks": 6,
        "every": 100,
        "sample": 60,
        "full_below": 0.0,
        "dtype": torch.float64,
    }
    rows, gone, found, ear = normal(2 * N, D, seed=5), torch.tensor([0, 1, 300, N - 1]), {}, Ear()

    def look(store, name, parts=2):
        planned = store.plan()
        store.commit()
        for some in planned.tensor_split(parts):
            store.write(some, rows[some])
        found[name] = planned

    with TemporaryDirectory() as folder:
        store = nc.LowRankCache(N, D, path=Path(folder) / "coordinates", **settings)
        files = [path.name for path in Path(folder).iterdir()]
    store.observe(ear)
    look(store, "filled")
    store.step()
    store.remove(gone[rank::world])  # each names some
    store.step()
    look(store, "sampled", parts=1)
    store.remove(gone[:1] + 5)
    store.step()
    if world > 1:
        with pytest.raises(nc.InputError, match="none on process 1"):
            store.remove(torch.arange(384, N))
    store.add(gone[1:2])
    look(store, "back")
    state = add_up(store.shard.mesh.objects(store.state_dict()))
    grown = nc.LowRankCache(2 * N, D, **settings)
    grown.load_state_dict(state)
    slots = torch.arange(grown.num_rows)
    whole = grown.ids(slots), grown.rows(slots), grown.valid
    look(grown, "grown")
    return found | {
        "state": state, "whole": whole, "gone": store.ids(torch.cat(ear.gone)), "files": files,
        "held": store.held.coordinates, "left": len(grown.missing()), "cosine": store.cosine,
    }  # fmt: skip
