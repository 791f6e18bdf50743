"""Preparing a data set once: check, repair, re-encode, and write shards."""
