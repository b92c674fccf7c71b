"""Ready-made towers. Any ``nn.Module`` that maps features to (B, D) is a tower.

``towers.transformer`` needs the extra ``transformers`` and is imported from there alone.
"""

from negcache.towers.features import FeatureTower, WeightedBags, WeightedBagTower
from negcache.towers.static import Bags, IdTable, StaticTower

__all__ = [
    "Bags",
    "FeatureTower",
    "IdTable",
    "StaticTower",
    "WeightedBagTower",
    "WeightedBags",
]
