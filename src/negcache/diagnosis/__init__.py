"""How good are the negatives? The exact softmax over all items, and what draws make of it.

found = negcache.diagnosis.diagnose(loss_fn, query_tower(features), positives, query_ids)
print(found.samplers[0].query.bias)
"""

from negcache.diagnosis.diagnosing import diagnose
from negcache.diagnosis.report import Diagnosis, SamplerReport, TowerError
from negcache.diagnosis.settings import Beside, Settings
from negcache.diagnosis.stream_items import ItemsInMemory, StreamItems

__all__ = [
    "Beside",
    "Diagnosis",
    "ItemsInMemory",
    "SamplerReport",
    "Settings",
    "StreamItems",
    "TowerError",
    "diagnose",
]
