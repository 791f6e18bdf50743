"""Readers of research data sets in their published layouts, which `docs/datasets.md` shows.

A reader is a function `(root, split, **options)` to a `datasets.Dataset`. It walks over the folder once and opens lists
but no videos. It never returns zero rows: if nothing fits, an error says what it looked for and what it found.
"""
