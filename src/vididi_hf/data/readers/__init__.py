"""Readers of research data sets in the layouts they are published in; `docs/datasets.md` shows each.

A reader is a function `(root, split, **options)` to a `datasets.Dataset`. It walks once over the folder, opens lists
and no video, and never returns zero rows: where nothing fits, an error says what was looked for and what was found.
"""
