"""Ours and what people use, on one footing: tower, optimizer, batches, seeds, budget, trials."""
