"""Fine-tuning of a pretrained encoder for action recognition and detection."""
