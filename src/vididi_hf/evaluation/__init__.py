"""Evaluation: retrieval, k-NN, linear probe, and fine-tuned classifiers and detectors."""
