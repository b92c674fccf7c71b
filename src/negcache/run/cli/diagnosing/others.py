"""Other samplers for the same run: by the words of ``sampler.name``, over its own cache."""

from collections.abc import Iterable

import torch

from negcache.encoder import Progress
from negcache.errors import InputError
from negcache.interfaces import Sampler, Store
from negcache.run.cli.diagnosing.opening import loss_of
from negcache.run.cli.runs import Run
from negcache.run.cli.sampling import CORPUS_FREE, build_sampler, check_stream, check_word
from negcache.run.training import Config
from negcache.run.training.config_tables import SamplerConfig

FILLED_AT_ONCE = 1024


def check_words(config: Config, words: Iterable[str]) -> list[str]:
    """The words of other samplers than a config's own, each once. Raises InputError."""
    own = config.sampler.name
    for word in words:
        check_word(word)
        check_stream(config.model_copy(update={"sampler": SamplerConfig(name=word)}))
        if config.data.pairs is not None and own in CORPUS_FREE and word not in CORPUS_FREE:
            raise InputError(
                f'a run that keeps a cache, which "{word}" draws from',
                f'sampler.name "{own}", which keeps none',
                f'diagnose a run that was trained with sampler.name "{word}"',
            )
        if word == "auto" and own != "auto":
            raise InputError(
                'a sampler that needs no training to choose with --sampler, such as "cached"',
                '"auto"',
                'diagnose a run that was trained with sampler.name "auto"',
            )
    return [word for word in dict.fromkeys(words) if word != own]


def other_samplers(run: Run, words: Iterable[str], progress: Progress) -> dict[str, Sampler]:
    """Built as the run would: as many draws, shared or not, over the rows that it has.

    Where it has none, a cache of fresh rows is filled.
    """
    keys, found = run.config.sampler, dict[str, Sampler]()
    loss_fn = loss_of(run)
    inputs = run.source.sampler_inputs(run.towers.dim, loss_fn.device)
    store = loss_fn.store
    for word in words:
        chosen = SamplerConfig(name=word, num_negatives=keys.num_negatives, shared=keys.shared)
        config = run.config.model_copy(update={"sampler": chosen})
        sampler = build_sampler(inputs._replace(config=config, store=store))
        if sampler.store is not None and store is None:
            store = _filled(sampler.store, run, progress)
        found[word] = sampler
    return found


def _filled(store: Store, run: Run, progress: Progress) -> Store:
    with torch.no_grad():
        for ids, rows in loss_of(run).encoder.encode_all(store.missing(), FILLED_AT_ONCE, progress):
            store.write(ids, rows)
    return store
