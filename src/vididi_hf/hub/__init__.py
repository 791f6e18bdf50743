"""Publish checkpoints on the Hub with their model card and code, convert weights, and export encoders."""
