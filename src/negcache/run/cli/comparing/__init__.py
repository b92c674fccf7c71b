"""Finished runs side by side: read, tested against a baseline, drawn, written down."""
