"""Two processes train what one trains on the global batch: plain DDP and FSDP2, joined by gloo."""

import processes
import pytest
import shared_training
import torch

NAMES = [*shared_training.DDP, *(f"fsdp_{name}" for name in shared_training.FSDP)]

OTHERS = shared_training.POOLED + shared_training.LAGGING


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(gradients, parameters) by name: of one process, and of each of two.

    The two have also seen refused what would drift apart.
    """
    folder = tmp_path_factory.mktemp("trained")
    for world in (1, 2):
        processes.run(shared_training.__file__, folder, world)
    return [torch.load(folder / f"{which}.pt") for which in ("0-of-1", "0-of-2", "1-of-2")]


@pytest.mark.parametrize("name", NAMES)
def test_both_processes_hold_the_same_parameters(trained, name):
    _, *two = trained
    for first, second in zip(two[0][name][1], two[1][name][1], strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", shared_training.RESUMED)
def test_resumed_from_the_state_of_the_first_process_it_is_the_straight_run(trained, name):
    for each in trained[1:]:
        for resumed, straight in zip(each[f"resumed_{name}"][1], each[name][1], strict=True):
            assert torch.equal(resumed, straight)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OTHERS])
def test_gradients_are_those_of_one_process_on_the_global_batch(trained, name):
    one, two, _ = trained
    for found, wanted in zip(two[name], one[name], strict=True):
        assert any(bool(each.any()) for each in wanted)
        for mine, its in zip(found, wanted, strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", shared_training.POOLED)
def test_draws_that_a_batch_shares_are_those_of_each_process(trained, name):
    """An estimate of the same loss by other draws."""
    one, two, _ = trained
    for mine, its in zip(two[name][0], one[name][0], strict=True):
        assert not torch.equal(mine, its)
        assert mine.shape == its.shape
