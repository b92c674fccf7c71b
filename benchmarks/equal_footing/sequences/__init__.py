"""Sequences of classes: what comes next, a softmax over all of them."""
