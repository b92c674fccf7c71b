"""sentence-transformers among some processes: ``python FILE FOLDER RANK WORLD STEPS [RESUME]``."""

import os
import sys
import warnings

import torch
import torch.distributed as dist
from datasets import Dataset
from sentence_models import static_model, words_and_meanings
from sentence_training import arguments, cached
from sentence_transformers import SentenceTransformerTrainer

from negcache.integrations.sentence_transformers import CorpusSoftmaxLoss, corpus_pairs

GLOBAL = 8


def main(folder, rank, world, steps, *resumed):
    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{world}"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": os.environ["TEST_PORT"]}
    args = arguments(
        f"{folder}/run", per_device_train_batch_size=GLOBAL // world, max_steps=steps, save_steps=2
    )
    words, meanings = words_and_meanings(300)  # three blocks of rows
    data = Dataset.from_dict({"anchor": words, "positive": meanings})
    pairs, model = corpus_pairs(data, meanings), static_model()
    loss = CorpusSoftmaxLoss(model, pairs, rho=0.1, sampler=cached(pairs))
    trainer = SentenceTransformerTrainer(
        model=model, args=args, train_dataset=pairs.dataset, loss=loss, callbacks=[loss.callback()]
    )
    trainer.train(resume_from_checkpoint=bool(resumed) or None)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    store = loss.softmax.store
    rows = store.ids(torch.arange(store.num_rows)), store.rows(torch.arange(store.num_rows))
    torch.save((weights, rows), f"{folder}/{rank}-of-{world}.pt")
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
