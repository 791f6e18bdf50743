"""Fine-tuning of a pretrained encoder to recognize actions."""
