"""Embeddings of whole data sets on the disk, and the search for the videos most like a given one."""
