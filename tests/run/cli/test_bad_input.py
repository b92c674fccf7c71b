"""Bad input ends before work is spent: one message, code 2, nothing made, nothing lost."""

import shutil

import pytest

SETTINGS = {
    "sampler.nam=uniform": "'sampler.nam'; got|use 'sampler.name'",
    "data.path=x": "'data.path'|[data] has source, ",
    "lr=0.1": "'lr'|use 'optimizer.lr'",
    "optimizer.learning_rate=0.1": "'optimizer.learning_rate'|optimizer.",
    "steps=many": "steps to be a valid integer|'many' (str)",
    'steps="10"': "steps to be a valid integer|'10' (str)",
    "steps=0": "steps to be greater than or equal to 1|0 (int)",
    "sampler.name=random": "'head_tail', 'quadratic' or 'rf_softmax'|'random'",
    "tower.shared=1": "tower.shared to be a valid boolean|1 (int)",
    "sampler.num_negatives=241": "240|241",
    "cache.refresh_rows=241": "at most the 240 items|241",
    "batch_size=1000": "at most the 192 training pairs|batch_size = 1000",
    "sampler.estimator=cached_partition": "sampler.shared false|log_q_corrected",
    "data.source=/nowhere": "/nowhere|negcache data wordnet-sense OUT",
    "steps": "--set key=value|--set steps",
    "steps.more=1": "steps.more",
    "schedule.name=step": "'constant', 'linear' or 'cosine'|'step'",
    "schedule.warmup_steps=6": "schedule.warmup_steps below the 6 steps|6",
    "schedule.warmup_steps=0.1": "schedule.warmup_steps to be a valid integer|0.1",
    "schedule.warmup_steps=-1": "schedule.warmup_steps to be greater",
    "warmup_steps=3": "'warmup_steps'|use 'schedule.warmup_steps'",
    "optimizer.clip_norm=-1": "optimizer.clip_norm to be greater than or equal to 0|-1",
    "optimizer.clip_norm=inf": "optimizer.clip_norm to be a finite number|inf",
    "optimizer.clip_norm=nan": "optimizer.clip_norm|nan",
    "save_best=MRR@10": "'ndcg10', 'mrr10', 'r1', 'r10' or 'r100'|'MRR@10'",
    "save_best=mrr10": "eval_every from 1 to the 6 steps|eval_every = 0|mrr10 of the dev split",
    "early_stopping_patience=2": "save_best|ndcg10, mrr10, r1, r10, r100|none",
    "steps=1\nseed=7": r"on one line|--set steps=1\nseed=7",
    "threads=100000": "threads to be less than or equal to 1024|100000",
    "accumulation=10000000": "accumulation to be less",
    "steps=" + "9" * 4000: "steps to be less than or equal to 2147483647|99...99",
    "data.max_tokens=10000000": "data.max_tokens to be less",
    "data.vocab_size=100000000": "data.vocab_size to be less",
    "score.temperature=1e-300": "score.temperature to be greater than or equal to 0.0001",
    "score.temperature=nan": "score.temperature to be a finite number",
    "optimizer.lr=inf": "optimizer.lr to be a finite number",
    "sampler.power=1e300": "sampler.power to be less than or equal to 100",
    "timeout_seconds=1e300": "timeout_seconds to be less",
    "steps=" + "[" * 3000: "steps to be a valid integer",
    "a." * 1000 + "b=1": "a known config key|'a'",
    "data.tokenizer=nowhere.json": "a tokenizer that is trained|data.vocab_size = 400",
    "tower.pooling=" + "x" * 5000: "--set key=value|--set tower.pooling=xxx",
    "early_stopping_patience=-1": "early_stopping_patience to be greater",
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings(refused, small, tmp_path, setting):
    out = tmp_path / "run"
    told = refused("train", small / "small.toml", "--set", setting, "--out", out)
    for part in SETTINGS[setting].split("|"):
        assert part.removesuffix("; got") in told
    assert not out.exists()


def test_config_files(refused, tmp_path):
    assert "no file" in refused("train", tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("steps = 3\nsteps = = 4\n")
    assert "line 2" in refused("train", broken)
    broken.write_text("steps = 3\n")
    assert "config key data; got no value" in refused("train", broken)
    for text in ("a = " + "[" * 4000, "steps = " + "9" * 4100, "a = " + "{b = " * 1000):
        broken.write_text(text)
        assert f"TOML in {broken}" in refused("train", broken)
    broken.write_text(".".join(["a"] * 20_000) + " = 1")
    assert "a line of more than 4,096 characters" in refused("train", broken)
    broken.write_bytes(b"steps = 3 # caf\xe9")
    assert f"TOML in {broken}" in refused("train", broken)


def test_one_query_alone_in_a_batch(refused, small, tmp_path):
    words = ("--set", "sampler.name=in_batch", "--set", "batch_size=1", "--out", tmp_path / "run")
    assert "batch_size of at least 2" in refused("train", small / "small.toml", *words)


def test_a_corpus_of_one_item(refused, small, tmp_path):
    task = tmp_path / "one"
    (task / "qrels").mkdir(parents=True)
    (task / "corpus.jsonl").write_text('{"_id": "a", "title": "", "text": "alone"}\n')
    (task / "queries.jsonl").write_text('{"_id": "q", "text": "who"}\n')
    (task / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    words = ("--set", f"data.source={task}", "--out", tmp_path / "run")
    assert "2 items" in refused("train", small / "small.toml", *words)


def test_no_dev_split_to_evaluate_on(refused, small, tmp_path):
    task = shutil.copytree(small / "task", tmp_path / "task")
    dev, test = (task / "qrels" / f"{split}.tsv" for split in ("dev", "test"))
    test.write_text(test.read_text() + dev.read_text().split("\n", 1)[1])
    dev.unlink()
    words = ("--set", f"data.source={task}", "--set", "eval_every=2", "--out", tmp_path / "run")
    for more in ((), ("--set", "save_best=mrr10")):
        told = refused("train", small / "small.toml", *words, *more)
        assert "dev split" in told
        assert "add qrels/dev.tsv" in told


def test_folders(refused, small, tmp_path):
    kept = tmp_path / "run"
    kept.mkdir()
    (kept / "precious").touch()
    assert f"negcache resume {kept}" in refused("train", small / "small.toml", "--out", kept)
    assert [path.name for path in kept.iterdir()] == ["precious"]
    for command in ("resume", "evaluate", "search"):
        assert "config.json" in refused(command, kept)
    (kept / "config.json").write_text("{")
    assert "JSON in" in refused("resume", kept)


def test_a_run_without_checkpoint_or_split(call, refused, small, tmp_path):
    run = tmp_path / "run"
    assert call("train", small / "small.toml", "--out", run).exit_code == 0
    assert "'nosuch'" in refused("evaluate", run, "--split", "nosuch")
    for command in (("evaluate", run), ("search", run, "word1"), ("export", run, tmp_path / "m")):
        for word in ("best", "4", "last"):
            told = refused(*command, "--checkpoint", word)
            assert f"newest or a step (3, 6); got {word}." in told
    for path in (run / "checkpoints").rglob("*.*"):
        path.unlink()
    for path in (run / "checkpoints").iterdir():
        path.rmdir()
    assert "a run with a checkpoint" in refused("search", run, "word1")


def test_data_with_a_wrong_name(refused, tmp_path):
    assert "wordnet-sense" in refused("data", "wordnet-sens", tmp_path / "out")
