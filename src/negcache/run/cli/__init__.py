"""The command line: train, resume, evaluate, compare, plan, search, export, data, demo."""
