"""Warmup, decay and clipping are torch's own: the trainer is, bit for bit, a plain torch loop."""

import math

import pytest
import torch
from accelerate.state import AcceleratorState
from pace import slow
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, SequentialLR

from negcache import InputError
from negcache.packing import pack
from negcache.run.cli import runs
from negcache.run.training.config_tables import ScheduleConfig
from negcache.run.training.schedule import make_scheduler
from negcache.run.training.trainer import make_accelerator

STEPS, LR = 12, 0.01
KEYS = {
    "tower": {"dim": 8, "shared": False},
    "score": {"learn_temperature": True},
    "eval_every": 0,
    "log_every": 1,
}
MAIN = {
    "constant": lambda optimizer, steps: ConstantLR(optimizer, 1.0, 0),
    "linear": lambda optimizer, steps: LinearLR(optimizer, 1.0, 0.0, steps),
    "cosine": CosineAnnealingLR,
}
FACTORS = {
    "constant": lambda share: 1.0,
    "linear": lambda share: 1 - share,
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
}


def scheduled(optimizer, name, warmup):
    """The schedule by torch's schedulers, written out."""
    if not warmup:
        return MAIN[name](optimizer, STEPS)
    rise = LinearLR(optimizer, 1 / (warmup + 1), 1.0, warmup)
    return SequentialLR(optimizer, [rise, MAIN[name](optimizer, STEPS - warmup)], [warmup])


def learned_of(run):
    """Every parameter of the run, once."""
    retriever = run.retriever
    modules = (retriever.query_tower, retriever.item_tower, retriever.score)
    return list(dict.fromkeys(p for module in modules for p in module.parameters()))


def plain_loop(run, make_optimizer, make_schedule, clip_norm, scaler=None):
    """Train the parts of a run that was not trained; rate and gradient norm of every step."""
    parts, order, each = run.trainer.parts, run.trainer.parts.data.order, run.config.accumulation
    learned, told = learned_of(run), []
    optimizer = make_optimizer(learned)
    scheduler = make_schedule(optimizer)
    half = torch.autocast("cpu", torch.float16, enabled=scaler is not None)
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    parts.loss_fn.fill_cache()
    for step in range(STEPS):
        for part in range(each):
            batch = parts.data.batch(order.batch(step * each + part))
            with half:
                rows = parts.query_tower(batch.queries)
                loss = parts.loss_fn(rows, batch.positives, batch.query_ids)
            scaler.scale(loss / each).backward()
        scaler.unscale_(optimizer)
        finite = all(p.grad.isfinite().all() for p in learned if p.grad is not None)
        norm = clip_grad_norm_(learned, clip_norm or math.inf).item()
        told.append((optimizer.param_groups[0]["lr"], norm))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        if finite:
            scheduler.step()
            parts.loss_fn.step()
    return told


def assert_equal(run, plain):
    """Parameters and the state of the loss, its cache and generator included."""
    for module in ("query_tower", "loss_fn"):
        states = [pack(getattr(r.trainer.parts, module).state_dict()) for r in (run, plain)]
        assert states[0][0] == states[1][0]
        assert all(torch.equal(rows, states[1][1][name]) for name, rows in states[0][1].items())


@pytest.mark.parametrize("accumulation", [slow(1), 2])
@pytest.mark.parametrize(
    ("name", "warmup", "clip_norm", "shared"),
    [
        slow("constant", 0, 0.0, True),
        ("constant", 4, 0.5, True),
        slow("linear", 0, 0.5, False),
        ("cosine", 3, 0.5, False),
    ],
)
def test_equals_a_plain_loop(start, lines, accumulation, name, warmup, clip_norm, shared):
    keys = KEYS | {
        "tower": {"dim": 8, "shared": shared},
        "accumulation": accumulation,
        "optimizer": {"name": "adamw", "lr": LR, "weight_decay": 0.1, "clip_norm": clip_norm},
        "schedule": {"name": name, "warmup_steps": warmup},
    }
    run, plain = start("run", **keys), start("plain", **keys)
    run.trainer.run()
    told = plain_loop(
        plain,
        lambda learned: torch.optim.AdamW(learned, lr=LR, weight_decay=0.1, fused=True),
        lambda optimizer: scheduled(optimizer, name, warmup),
        clip_norm,
    )
    assert_equal(run, plain)
    written = lines(run.folder)
    assert [line["lr"] for line in written] == [lr for lr, _ in told]
    if clip_norm:
        assert [line["grad_norm"] for line in written] == [norm for _, norm in told]
        assert max(norm for _, norm in told) > clip_norm > 0
    else:
        assert not any("grad_norm" in line for line in written)


@pytest.mark.parametrize("name", MAIN)
@pytest.mark.parametrize("warmup", [0, 1, 5, STEPS - 1])
def test_rates_are_those_of_the_formula(name, warmup):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=LR)
    schedule = ScheduleConfig(name=name, warmup_steps=warmup)
    scheduler = make_scheduler(optimizer, schedule, STEPS)
    for step in range(STEPS + 1):
        share = (step - warmup) / (STEPS - warmup)
        factor = (step + 1) / (warmup + 1) if step < warmup else FACTORS[name](share)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(LR * factor, abs=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_a_step_that_half_precision_skips_moves_no_schedule(
    start, lines, monkeypatch, request, clip_norm
):
    """Gradients overflow until the scale has fallen; the optimizer is fused, as always.

    Accelerate gives fp16 to GPUs alone; here it is told to do on a CPU what it does there.
    """

    request.addfinalizer(AcceleratorState._reset_state)  # all Accelerators of a process have one

    def scaled(config):
        accelerator = make_accelerator(config)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
        return accelerator

    keys = KEYS | {
        "optimizer": {"lr": LR, "clip_norm": clip_norm},
        "schedule": {"name": "linear", "warmup_steps": 6},
    }
    plain = start("plain", **keys)
    monkeypatch.setattr(runs, "make_accelerator", scaled)
    run = start("run", **keys)
    run.trainer.run()
    told = plain_loop(
        plain,
        lambda learned: torch.optim.Adam(learned, lr=LR, fused=True),
        lambda optimizer: scheduled(optimizer, "linear", 6),
        clip_norm,
        torch.amp.GradScaler("cpu", init_scale=2.0**16),
    )
    assert_equal(run, plain)
    made = run.trainer.parts.loss_fn.store.clock
    assert 0 < made < STEPS
    assert run.trainer.parts.scheduler.last_epoch == made
    written = lines(run.folder)
    assert [line["lr"] for line in written] == [lr for lr, _ in told]
    if clip_norm:
        norms = [norm if math.isfinite(norm) else None for _, norm in told]
        assert [line.get("grad_norm") for line in written] == norms
        assert None in norms


def test_a_gradient_without_a_norm_stops_the_run(start):
    run = start(**KEYS, optimizer={"clip_norm": 1.0})
    run.retriever.query_tower.out.bias.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(InputError, match=r"gradients of finite norm; got (inf|nan) at step 1"):
        run.trainer.run()
    assert all(p.isfinite().all() for p in run.retriever.query_tower.parameters())
