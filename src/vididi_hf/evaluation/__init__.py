"""Evaluation of encoders: features of data sets and what they are good for."""
