"""Softmax over a whole corpus in a ``SentenceTransformerTrainer``.

Needs the extra ``sentence-transformers`` (5.2 or newer). Three lines beside your own::

    pairs = corpus_pairs(dataset, corpus)
    loss = CorpusSoftmaxLoss(model, pairs)
    trainer = SentenceTransformerTrainer(
        model, train_dataset=pairs.dataset, loss=loss, callbacks=[loss.callback()]
    )
"""

from negcache.integrations.sentence_transformers.diagnosis_callback import DiagnosisCallback
from negcache.integrations.sentence_transformers.loss import CorpusSoftmaxLoss
from negcache.integrations.sentence_transformers.pairs import CorpusPairs, corpus_pairs
from negcache.integrations.sentence_transformers.trainer_callback import CorpusSoftmaxCallback

__all__ = [
    "CorpusPairs",
    "CorpusSoftmaxCallback",
    "CorpusSoftmaxLoss",
    "DiagnosisCallback",
    "corpus_pairs",
]
