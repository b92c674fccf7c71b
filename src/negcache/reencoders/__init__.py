"""What items encoded a while ago look like today, learned from a few encoded then and now."""

from negcache.reencoders.corrector import Corrector
from negcache.reencoders.identity import Identity
from negcache.reencoders.moving import Moving
from negcache.reencoders.ridge import Ridge

__all__ = ["Corrector", "Identity", "Moving", "Ridge"]
