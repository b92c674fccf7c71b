"""What a run writes down, in what order it reads its data, and what stops it."""

import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from negcache import InputError
from negcache.run.training.order import Order
from negcache.run.training.trainer import check_shares


def test_what_is_written(start, lines):
    run = start()
    run.trainer.run()
    trained = [line for line in lines(run.folder) if "loss" in line]
    assert [line["step"] for line in trained] == [5, 10, 12]
    assert [line["step"] for line in lines(run.folder) if "dev/mrr10" in line] == [8]
    last = trained[-1]
    assert last["encoded_nograd_total"] == 240 + 12 * 5  # the fill, then 5 refreshed a step
    assert 16 < last["encoded_grad_per_step"] <= 32  # distinct of 16 positives and 16 draws
    assert last["loss"] < trained[0]["loss"]
    assert 1 <= last["effective_sample_size"] <= 32
    assert last["staleness"] >= 0
    timings = json.loads((run.folder / "timings.jsonl").read_text().splitlines()[-1])
    assert {"query", "draw", "encode", "loss", "backward", "optimizer", "write", "refresh"} < set(
        timings
    )
    stages = [value for name, value in timings.items() if name not in ("step", "wall")]
    assert sum(stages) <= timings["wall"]
    board = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert {"loss", "dev/mrr10", "seconds/wall"} <= set(board.Tags()["scalars"])


def test_uniform_encodes_nothing_without_gradient(start, lines):
    run = start(sampler={"name": "uniform"})
    run.trainer.run()
    last = [line for line in lines(run.folder) if "loss" in line][-1]
    assert last["encoded_nograd_total"] == 0
    assert last["staleness"] is None


def test_an_epoch_reads_every_pair_once_and_positions_need_no_replay():
    order = Order(num_pairs=10, batch_size=3, seed=1)
    epochs = [torch.cat([order.batch(3 * e + i) for i in range(3)]) for e in range(2)]
    assert all(len(epoch.unique()) == 9 for epoch in epochs)
    assert not torch.equal(*epochs)
    assert order.place(7) == (2, 1)
    assert torch.equal(Order(10, 3, seed=1).batch(4), order.batch(4))
    assert not torch.equal(Order(10, 3, seed=2).batch(4), order.batch(4))
    with pytest.raises(InputError, match=r"at most the 10 training pairs.*batch_size = 11"):
        Order(10, 11, seed=1)


def spoil(tower, value):
    with torch.no_grad():
        tower.out.bias[0] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_query_tower_that_gives_no_number(start, value):
    run = start(tower={"dim": 8, "shared": False})
    spoil(run.trainer.parts.query_tower, value)
    with pytest.raises(InputError, match=r"of queries; got NaN or inf .* ids \[\d.* at step 1"):
        run.trainer.run()


@pytest.mark.parametrize("sampler", ["uniform", "cached"])
def test_an_item_that_gives_no_number(start, sampler):
    run = start(tower={"dim": 8, "shared": False}, sampler={"name": sampler, "num_negatives": 15})
    tower = run.retriever.item_tower
    run.trainer.parts.loss_fn.fill_cache()
    tower.register_forward_hook(lambda _, __, rows: rows * float("nan") if tower.training else rows)
    spoil(tower, float("nan"))
    with pytest.raises(InputError, match=r"NaN or inf.*ids \[\d.* at step 1"):
        run.trainer.run()
    assert all(p.isfinite().all() for p in run.trainer.parts.query_tower.parameters())


def test_a_batch_of_fewer_queries_than_processes_is_refused():
    check_shares(2, 2)
    with pytest.raises(InputError, match="at least the 3 processes; got 2"):
        check_shares(2, 3)


def test_accumulation_refreshes_once_per_optimizer_step(start, lines):
    run = start(accumulation=2)
    run.trainer.run()
    cache = run.trainer.parts.loss_fn.store
    assert cache.clock == run.trainer.step == 12
    last = [line for line in lines(run.folder) if "loss" in line][-1]
    assert last["encoded_nograd_total"] == 240 + 12 * 5
    assert last["encoded_grad_per_step"] > 32  # two forward passes


def test_a_learned_temperature_learns_and_a_fixed_one_stays(start):
    for learn in (True, False):
        run = start(f"learn-{learn}", score={"learn_temperature": learn})
        before = run.retriever.score.log_scale.item()
        run.trainer.run()
        assert (run.retriever.score.log_scale.item() != before) is learn


def test_known_positives_reach_the_loss(start):
    run = start()
    known = run.trainer.parts.loss_fn.known_positives
    pairs = run.retriever.task.judgements("train").positives()
    listed = known.exclusion(pairs.queries, pairs.items)
    assert listed.contains(torch.arange(len(pairs.items)), pairs.items).all()
    assert len(known) == len(run.retriever.task.queries)


def test_in_batch_negatives_know_their_popularity(start):
    run = start(sampler={"name": "in_batch"})
    share = run.trainer.parts.loss_fn.sampler.log_popularity.exp()
    items = run.retriever.task.learnable("train").items
    torch.testing.assert_close(share, torch.bincount(items, minlength=240) / len(items))


def test_one_item_that_is_not_finite_stops_the_run_before_it_is_saved(start):
    run = start(checkpoint_every=1, tower={"dim": 8, "shared": False})
    run.trainer.parts.loss_fn.fill_cache()
    tower, corpus = run.retriever.item_tower, run.retriever.task.corpus
    only = set(corpus[torch.tensor([200])].tokens.tolist())
    with torch.no_grad():
        tower.tokens.weight[list(only)] = torch.nan
    with pytest.raises(InputError, match=r"NaN or inf .* at step \d+"):
        run.trainer.run()
    if state := run.trainer.checkpoints.load():
        table = state["parts"]["loss"]["store"]["table"]
        rows = [part["embeddings"] for name, part in table.items() if name.startswith("rows ")]
        assert torch.cat(rows).isfinite().all()
