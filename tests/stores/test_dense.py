"""The dense cache: bookkeeping, refresh schedule, state."""

import math

import pytest
import torch

import negcache as nc
from negcache.stores.refresh import rows_due
from negcache.testing.conformance import check_store


@pytest.mark.parametrize("rho", [0.0, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("num_items", [37, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_laws(rho, num_items, dtype):
    check_store(lambda: nc.DenseCache(num_items, 3, refresh=rho, dtype=dtype), rho)


def test_no_row_is_older_than_100_steps_with_less_than_one_row_a_step():
    """rho = 0.01, S = 37: int(rho S) would never refresh anything."""
    store = nc.DenseCache(37, 2, refresh=0.01)
    store.write(torch.arange(37), torch.zeros(37, 2))
    for _ in range(1000):
        planned = store.plan()
        store.commit()
        store.write(planned, torch.zeros(len(planned), 2))
        store.step()
        assert store.ages().max() <= 100


def test_a_store_that_rounds_down_breaks_the_law(monkeypatch):
    monkeypatch.setattr("negcache.stores.refresh.rows_due", lambda rho, rows, step: int(rho * rows))
    with pytest.raises(AssertionError, match="no row is older"):
        check_store(lambda: nc.DenseCache(37, 3, refresh=0.01), 0.01)


def test_a_store_that_forgets_its_clock_breaks_the_law():
    class Forgetful(nc.DenseCache):
        def state_dict(self):
            state = super().state_dict()
            (part,) = (each for each in state["table"].values() if isinstance(each, dict))
            part["written"] = torch.zeros_like(self.table.written)
            return state

    with pytest.raises(AssertionError, match="state_dict holds the refresh"):
        check_store(lambda: Forgetful(37, 3, refresh=0.1), 0.1)


@pytest.mark.parametrize("rho", [0.001, 0.013, 0.3, 0.9999])
def test_planned_counts_add_up(rho):
    for steps in (1, 7, 1000):
        assert sum(rows_due(rho, 37, step) for step in range(steps)) == math.ceil(
            round(rho * 37 * steps, 6)
        )


def test_stalest_rows_are_planned_and_a_written_row_goes_to_the_back():
    store = nc.DenseCache(10, 2, refresh=0.3)
    store.write(torch.arange(10), torch.zeros(10, 2))
    store.step()
    store.write(torch.tensor([0, 1]), torch.zeros(2, 2))
    assert store.plan().tolist() == [2, 3, 4]


@pytest.mark.parametrize("bad", [{"refresh": -0.1}, {"refresh": 1.5}, {"num_items": 1}])
def test_bad_input(bad):
    with pytest.raises(nc.InputError, match="Expected"):
        nc.DenseCache(**{"num_items": 10, "dim": 2} | bad)


def test_state_of_another_shape_is_refused():
    store = nc.DenseCache(10, 2)
    with pytest.raises(nc.InputError, match=r"\(10, 3\).*got \(10, 2\)"):
        nc.DenseCache(10, 3).load_state_dict(store.state_dict())
