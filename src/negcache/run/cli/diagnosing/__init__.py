"""``negcache diagnose``: how good the negatives of a run are."""
