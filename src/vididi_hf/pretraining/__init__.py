"""Pretraining. Start with `loop.py`: the algorithm, from top to bottom."""
