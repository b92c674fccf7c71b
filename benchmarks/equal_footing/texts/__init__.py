"""Towers over texts: queries and items, searched exactly."""
