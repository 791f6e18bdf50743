"""Embed data sets into Parquet shards, and search them for similar videos."""
