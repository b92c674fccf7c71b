"""Lightning, the loss an attribute of the module: the plain loop, bit for bit."""

import pytest
import pytorch_lightning as pl
import torch
from pace import slow
from text_towers import (
    ROWS,
    B,
    adamw,
    batches,
    build,
    collate,
    difference,
    kernel_sums,
    shared_draws,
    train_plainly,
)
from torch.utils.data import DataLoader

import negcache as nc

STEPS = 12

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning"),  # Lightning's own
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty"),  # resumed from
]


class TwoTowers(pl.LightningModule):
    """What a user writes."""

    def __init__(self, sampler=shared_draws, seed=0):
        super().__init__()
        self.model = build(sampler, seed)

    def training_step(self, batch, _):
        return self.model(**batch)["loss"]

    def validation_step(self, batch, _):
        self.log("loss", self.model(**batch)["loss"])

    def configure_optimizers(self):
        optimizer = adamw(self.parameters())
        self.model.loss_fn.step_with(optimizer)
        return optimizer


class Resumable(DataLoader):
    """A loader that says where it stands and begins there again, which torch's own does not."""

    place = 0

    def __iter__(self):
        first, self.place = self.place, 0
        for number, batch in enumerate(super().__iter__()):
            if number >= first:
                self.place = number + 1
                yield batch
        self.place = 0

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


def loader(steps, kind=DataLoader):
    return kind(ROWS[: B * steps], B, collate_fn=collate)


def fit(
    folder, sampler=shared_draws, *, accumulation=1, validate=False, resume=None, seed=0,
    kind=DataLoader, every=4,
):  # fmt: skip
    """Trained for three epochs of four steps, or gone on with from a checkpoint."""
    module = TwoTowers(sampler, seed)
    keep = pl.callbacks.ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=every)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=STEPS, accumulate_grad_batches=accumulation, callbacks=[keep],
        limit_val_batches=1.0 if validate else 0, val_check_interval=2, logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader(4 * accumulation, kind), loader(2), ckpt_path=resume)
    return module, trainer


@pytest.mark.parametrize("sampler", [slow(shared_draws), kernel_sums])
@pytest.mark.parametrize("accumulation", [slow(1), 2])
def test_it_equals_the_plain_loop(accumulation, sampler, tmp_path):
    module, _ = fit(tmp_path, sampler, accumulation=accumulation)
    plain = build(sampler)
    data = batches(STEPS * accumulation, ROWS[: 4 * accumulation * B])
    train_plainly(plain, data, adamw(plain.parameters()), accumulation)
    assert not difference(module.model, plain)
    assert plain.loss_fn.store.clock == STEPS


@pytest.mark.parametrize("sampler", [shared_draws, slow(kernel_sums)])
@pytest.mark.parametrize("accumulation", [slow(1), 2])
def test_resumed_at_a_checkpoint_it_is_the_straight_run(accumulation, sampler, tmp_path):
    """The last of an epoch: Lightning begins the data of one anew."""
    settings = {"sampler": sampler, "accumulation": accumulation}
    straight, _ = fit(tmp_path, **settings)
    resumed, _ = fit(tmp_path, **settings, resume=tmp_path / "step=8.ckpt", seed=7)
    assert not difference(straight, resumed)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_so_it_is_from_within_an_epoch_with_a_loader_that_resumes(accumulation, tmp_path):
    settings = {"accumulation": accumulation, "kind": Resumable, "every": 6}
    straight, _ = fit(tmp_path, **settings)
    resumed, _ = fit(tmp_path, **settings, resume=tmp_path / "step=6.ckpt", seed=7)
    assert not difference(straight, resumed)


@pytest.mark.parametrize("sampler", [shared_draws, kernel_sums])
def test_validation_leaves_the_run_as_it_is(sampler, tmp_path):
    """Also the one before training, which fills the store."""
    validated, trainer = fit(tmp_path / "with", sampler, validate=True)
    assert "loss" in trainer.callback_metrics
    assert not difference(validated, fit(tmp_path / "without", sampler)[0])


def test_a_saved_module_is_loaded_back(tmp_path):
    module, _ = fit(tmp_path)
    loaded = TwoTowers.load_from_checkpoint(tmp_path / "step=12.ckpt", seed=7)
    assert not difference(module, loaded)


def test_a_checkpoint_without_the_own_state_of_the_loss_is_refused(tmp_path):
    fit(tmp_path)
    checkpoint = torch.load(tmp_path / "step=8.ckpt")
    del checkpoint["state_dict"]["model.loss_fn._extra_state"]
    torch.save(checkpoint, tmp_path / "weights.ckpt")
    with pytest.raises(nc.InputError, match="the loss' own state"):
        fit(tmp_path, resume=tmp_path / "weights.ckpt")


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_leaves_the_clock(fused):
    """On a CPU Lightning takes bf16 for fp16; here is the scaler that a GPU would get."""

    class Overflowing(TwoTowers):
        def training_step(self, batch, number):
            loss = super().training_step(batch, number)
            return loss * (torch.inf if scaler.get_scale() == 4 else 1.0)

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), fused=fused)
            self.model.loss_fn.step_with(optimizer)
            return optimizer

    scaler, module = torch.amp.GradScaler("cpu", init_scale=4.0), Overflowing()
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=4, logger=False, enable_checkpointing=False,
        plugins=[pl.plugins.MixedPrecision("16-mixed", "cpu", scaler)], limit_val_batches=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader(4), loader(1))
    assert scaler.get_scale() == 2.0
    assert (trainer.global_step, module.model.loss_fn.store.clock) == (4, 3)
