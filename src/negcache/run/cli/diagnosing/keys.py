"""Which key of the config a user changes to follow an advice."""

from dataclasses import replace

from negcache.diagnosis import Diagnosis
from negcache.diagnosis.advice import is_less
from negcache.diagnosis.choices import is_better
from negcache.diagnosis.report import Advice
from negcache.diagnosis.variants import TIMES
from negcache.run.cli.sampling import idle_keys
from negcache.run.training import Config


def with_keys(found: Diagnosis, config: Config) -> Diagnosis:
    """The same, each sentence with what to set in a config."""
    told = [_with_key(found, each, config) for each in found.advice]
    return replace(found, advice=told)


def _with_key(found: Diagnosis, advice: Advice, config: Config) -> Advice:
    key = _KEYS[advice.kind](found, advice, config)
    return replace(advice, sentence=f"{advice.sentence} {key}") if key else advice


def _draws(_found: Diagnosis, _advice: Advice, config: Config) -> str:
    keys = config.sampler
    uniform = f", sampler.uniform = {2 * keys.uniform}" if keys.name == "mixture" else ""
    return f"In the config: sampler.num_negatives = {2 * keys.num_negatives}{uniform}."


def _batch(_found: Diagnosis, _advice: Advice, _config: Config) -> str:
    return 'No key adds them to this sampler; sampler.name = "auto" has them.'


def _uniform(_found: Diagnosis, advice: Advice, config: Config) -> str:
    if is_less(advice.before, advice.after):  # nobody is to do it
        return ""
    keys = config.sampler
    each = keys.num_negatives + (keys.uniform if keys.name == "mixture" else 0)
    words = ['sampler.name = "uniform"', f"sampler.num_negatives = {each}"]
    without = [f"without sampler.{key}" for key in idle_keys(keys, "uniform")]
    return f"In the config: {', '.join([*words, *without])}."


def _refresh(_found: Diagnosis, _advice: Advice, config: Config) -> str:
    keys = config.cache
    if keys.refresh_rows is not None:
        return f"In the config: cache.refresh_rows = {TIMES * keys.refresh_rows}."
    return f"In the config: cache.refresh = {TIMES * keys.refresh:.4g}."


def _choice(found: Diagnosis, advice: Advice, _config: Config) -> str:
    if not is_better(advice.after, advice.before):  # the choice holds
        return ""
    outlook = found.of(advice.measured).outlook
    if outlook is not None and not outlook.choice[0]:
        return 'In the config: sampler.name = "in_batch".'
    return 'No key sets it; sampler.name = "auto" takes it once a look finds it better.'


def _weights(_found: Diagnosis, _advice: Advice, config: Config) -> str:
    if config.sampler.name == "auto" or config.data.pairs is not None:
        return ""
    return 'In the config: sampler.name = "auto", or another that reaches all items.'


def _capacity(found: Diagnosis, advice: Advice, config: Config) -> str:
    """As many rows are looked at a step as now."""
    keys, held = config.cache, found.coverage
    if advice.rows is None or held is None:
        return ""
    told = f"In the config: cache.size = {advice.rows}"
    if keys.refresh_rows is not None or not keys.refresh:
        return f"{told}."
    share = keys.refresh * held.rows / advice.rows
    return f"{told}, cache.refresh = {share:.4g}, which looks at as many rows a step."


def _nothing(_found: Diagnosis, _advice: Advice, _config: Config) -> str:
    return ""


_KEYS = {
    "draws": _draws,
    "batch": _batch,
    "uniform": _uniform,
    "refresh": _refresh,
    "choice": _choice,
    "foretold": _nothing,
    "weights": _weights,
    "capacity": _capacity,
}
