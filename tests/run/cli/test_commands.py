"""The commands, one after the other, as a user types them."""

import json
import subprocess
import sys
from importlib.metadata import version

import ir_measures
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from negcache.run.cli.runs import trained
from negcache.run.cli.searching import open_searcher


@pytest.fixture(scope="module")
def run(small):
    return small / "run"


def test_train_evaluate_search(call, small, run):
    done = call("train", small / "small.toml", "--set", "sampler.num_negatives=2", "--out", run)
    assert done.exit_code == 0, done.output
    assert f"6 steps done; next: negcache evaluate {run}" in done.stdout
    assert json.loads((run / "config.json").read_text())["sampler"]["num_negatives"] == 2

    done = call("evaluate", run, "--split", "dev")
    assert done.exit_code == 0
    assert "mrr10" in done.stdout
    told = "split dev: 24 queries over all 240 items; checkpoint of step 6, the newest\n"
    assert done.stdout.startswith(told)
    older = call("evaluate", run, "--split", "dev", "--checkpoint", 3, "--out", small / "older")
    assert "checkpoint of step 3\n" in older.stdout
    written = json.loads((run / "evaluation" / "dev.json").read_text())
    assert written["step"] == 6
    assert 0 <= written["mrr10"] <= 1
    found = list(ir_measures.read_trec_run(str(run / "evaluation" / "dev.trec")))
    assert len(found) == 24 * 100
    means = ir_measures.calc_aggregate(
        [ir_measures.R @ 10], ir_measures.read_trec_qrels(_qrels(small)), found
    )
    assert means[ir_measures.R @ 10] == pytest.approx(written["r10"])

    done = call("search", run, "word1 word2", "-k", "3")
    assert done.exit_code == 0
    assert done.stdout.count("│") == 3 * 4
    (index,) = (run / "index").glob("*/*")
    made = index.stat().st_mtime_ns
    asked = call("search", run, "-k", "2", input="word1 word2\nword3\n\n")
    assert asked.exit_code == 0
    assert asked.stdout.count("entry") == 2
    assert index.stat().st_mtime_ns == made  # encoded once


def _qrels(small):
    """The dev judgements in TREC's own form."""
    lines = (small / "task" / "qrels" / "dev.tsv").read_text().splitlines()[1:]
    rows = (line.split("\t") for line in lines)
    path = small / "dev.qrels"
    path.write_text("".join(f"{query} 0 {item} {grade}\n" for query, item, grade in rows))
    return str(path)


def test_a_finished_run_can_be_resumed(call, run):
    done = call("resume", run)
    assert done.exit_code == 0
    assert "6 steps done" in done.stdout


def test_a_damaged_index_is_made_anew(call, run):
    (index,) = (run / "index").glob("*/*")
    index.write_bytes(b"rubbish")
    assert call("search", run, "word1").exit_code == 0
    assert index.stat().st_size > 1000


def test_damage_is_told_and_passed_over(call, refused, run):
    newest = sorted((run / "checkpoints").iterdir())[-1]
    (newest / "state.json").write_text("{}")
    assert "state.json" in refused("resume", run)
    done = call("resume", run, "--fall-back")
    assert done.exit_code == 0
    assert "6 steps done" in done.stdout


def test_a_search_tells_ids_and_what_a_score_is(call, refused, run):
    found = call("search", run, "word1 word2", "-k", "1").stdout
    (row,) = [line for line in found.splitlines() if line.startswith("│")]
    score, item, _ = (cell.strip() for cell in row.strip("│").split("│"))
    retriever = trained(run).retriever
    with open_searcher(trained(run)) as searcher:
        (best,) = searcher.find("word1 word2", 1)
    assert (score, item) == (f"{best[0]:.2f}", best[1])
    assert item in retriever.task.corpus_text.ids(range(240))
    assert "score: cosine similarity / temperature 0.05; higher is better" in found
    for text in ("", " \t\n"):
        assert "a text to search for; got an empty one" in refused("search", run, text)


def test_the_version(call):
    assert call("--version").stdout == f"negcache {version('negcache')}\n"


@pytest.mark.parametrize("settings", [(), ("tower.shared=false", "score.normalize=false")])
def test_static_towers_are_exported(call, small, tmp_path, settings):
    """Folders that sentence-transformers loads; equal embeddings, of texts without a token too."""
    words = [word for setting in ("data.max_tokens=3", *settings) for word in ("--set", setting)]
    run, out = tmp_path / "run", tmp_path / "out"
    assert call("train", small / "small.toml", *words, "--out", run).exit_code == 0
    done = call("export", run, out)
    assert done.exit_code == 0, (done.output, done.exception)
    retriever = trained(run).retriever
    texts = retriever.task.corpus_text.texts(range(240))
    shared = not settings
    model, queries = (_model(out if shared else out / side) for side in ("item", "query"))
    assert isinstance(model[0], StaticEmbedding)
    rows = model.encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(
        rows, torch.cat([*retriever.encode_some(range(len(retriever.items)))]), atol=1e-6, rtol=0
    )
    for text in ("Word1, word2 word3 word4", "", "\u200b"):
        row = queries.encode([text], convert_to_tensor=True)
        torch.testing.assert_close(row, retriever.encode_text(text), atol=1e-6, rtol=0)
    assert model.similarity_fn_name == ("cosine" if shared else "dot")


def _model(folder):
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def test_help_names_every_command(call):
    text = call("--help").stdout
    assert all(word in text for word in ("train", "resume", "evaluate", "search", "data", "demo"))


def test_as_a_module_it_is_the_same_command():
    command = [sys.executable, "-m", "negcache", "train", "nowhere.toml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "Expected a TOML config file; got no file nowhere.toml. To fix this: check the path.\n"
    )
