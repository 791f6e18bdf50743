"""Fine-tuning of a pretrained encoder to recognise actions."""
