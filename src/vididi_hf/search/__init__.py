"""Embeddings of whole data sets on the disk, and the search for similar videos."""
