"""Pretraining: the model with its objective, the schedule of derivative orders, and the training loop."""
