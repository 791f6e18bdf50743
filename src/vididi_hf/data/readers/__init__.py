"""Readers of research data sets in their published layouts: functions `(root, split, **options)` to a data set."""
