"""The state as one tensor: what safetensors saves, and what lenient loading may not lose."""

import copy

import pytest
import torch
from safetensors.torch import load_model, save_file, save_model
from setting import B, Setting
from torch import nn

import negcache as nc
from negcache.packing import from_bytes, to_bytes


def shared(store):
    return nc.SharedDraws(nc.CachedSoftmax(store, 1))


def kernel(store):
    return nc.quadratic(store, 4)


@pytest.mark.parametrize("sampler", [shared, kernel])
def test_safetensors_saves_a_loss_and_gives_it_back(sampler, tmp_path):
    straight, resumed = Setting(sampler), Setting(sampler, seed=99)
    for _ in range(5):
        straight.step()
    resumed.corpus.copy_(straight.corpus)
    models = [nn.ModuleDict({"loss": s.loss, "tower": s.query_tower}) for s in (straight, resumed)]
    save_model(models[0], str(tmp_path / "model.safetensors"))
    save_file(models[0].state_dict(), tmp_path / "plain.safetensors")
    load_model(models[1], str(tmp_path / "model.safetensors"))
    resumed.data.set_state(straight.data.get_state())
    resumed.optimizer.load_state_dict(copy.deepcopy(straight.optimizer.state_dict()))
    assert all(torch.equal(straight.step(), resumed.step()) for _ in range(5))


def test_safetensors_saves_a_head_and_gives_it_back(tmp_path):
    heads = [nc.SoftmaxHead(60, 8, nc.quadratic, 5, seed=seed) for seed in (0, 1)]
    hidden, target = torch.randn(8, 8), torch.arange(8)
    heads[0](hidden, target).backward()
    save_model(heads[0], str(tmp_path / "head.safetensors"))
    load_model(heads[1], str(tmp_path / "head.safetensors"))
    assert torch.equal(heads[0](hidden, target), heads[1](hidden, target))


@pytest.mark.parametrize("strict", [True, False])
def test_weights_without_the_own_state_are_refused(strict):
    setting = Setting(shared)
    state = {k: v for k, v in setting.loss.state_dict().items() if k != "_extra_state"}
    with pytest.raises(nc.InputError, match="load them into the towers"):
        setting.loss.load_state_dict(state, strict=strict)
    holder = nn.ModuleDict({"loss": setting.loss})
    with pytest.raises(nc.InputError, match="the loss' own state"):
        holder.load_state_dict({f"loss.{k}": v for k, v in state.items()}, strict=strict)


@pytest.mark.parametrize("strict", [True, False])
def test_weights_without_the_own_state_of_a_head_are_refused(strict):
    head = nc.SoftmaxHead(60, 8, nc.quadratic, 5)
    weights = {k: v for k, v in head.state_dict().items() if k != "_extra_state"}
    holder = nn.ModuleDict({"head": head})
    for module, prefix in ((head, ""), (holder, "head.")):
        with pytest.raises(nc.InputError, match="store, clock and noise of the SoftmaxHead"):
            module.load_state_dict({prefix + k: v for k, v in weights.items()}, strict=strict)


def test_a_state_of_another_kind_of_module_is_refused():
    setting, head = Setting(shared), nc.SoftmaxHead(60, 8)
    for module, foreign, lacks in ((setting.loss, head, "filled"), (head, setting.loss, "table")):
        with pytest.raises(nc.InputError, match=f"one without {lacks}.*the kind that saved it"):
            module.set_extra_state(foreign.get_extra_state())


def test_a_state_lacks_what_it_is_asked_for():
    packed = to_bytes({"clock": 3})
    assert from_bytes(packed, "clock") == {"clock": 3}
    with pytest.raises(
        nc.InputError, match="a state with clock, rows, noise; got one without rows"
    ):
        from_bytes(packed, "clock", "rows", "noise")
    for strange in (["generator"], 3):  # no dictionary at all
        with pytest.raises(nc.InputError, match=r"without clock|a state that negcache packed"):
            from_bytes(to_bytes(strange), "clock")


def test_what_is_no_state_is_refused():
    packed = to_bytes({"rows": torch.arange(5), 3: [None, (1.5, "x")]})
    assert packed.dtype == torch.uint8
    assert packed.ndim == 1
    found = from_bytes(packed)
    assert torch.equal(found["rows"], torch.arange(5))
    assert found[3] == [None, (1.5, "x")]
    for wrong in (packed[:-3], packed[4:], torch.zeros(0, dtype=torch.uint8), torch.arange(9)):
        with pytest.raises(nc.InputError, match="load an undamaged checkpoint"):
            from_bytes(wrong)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_passes_without_gradient_leave_a_run_as_it_is(mode):
    """In evaluation mode, and in a host that only switches gradients off."""
    plain, beside = Setting(shared), Setting(shared)
    for _ in range(4):
        beside.loss.train(mode == "train")
        with torch.no_grad():
            rows = torch.arange(B)
            beside.loss(beside.query_tower(beside.corpus[rows]), rows, rows)
        beside.loss.train()
        assert torch.equal(plain.step(), beside.step())
    assert torch.equal(plain.loss.state_dict()["_extra_state"], beside.state()[1]["_extra_state"])
    assert plain.loss.report().encoded_grad == beside.loss.report().encoded_grad


def test_batches_of_an_evaluation_in_training_mode_differ_and_so_do_evaluations():
    """The noise of an evaluation is that of the run as it stands, whatever was evaluated before."""
    rows = torch.arange(B)

    def passed(setting):
        return setting.loss(setting.query_tower(setting.corpus[rows]), rows, rows)

    def evaluated(setting):
        with torch.no_grad():
            return [float(passed(setting)) for _ in range(2)]

    setting, other = (Setting(lambda store: nc.Uniform(range(len(store)), 2)) for _ in range(2))
    first = evaluated(setting)
    assert first[0] != first[1]
    passed(setting), passed(other)
    second = evaluated(setting)
    assert second[0] != second[1]
    assert second != first
    assert second == evaluated(other)
