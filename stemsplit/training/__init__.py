"""Training and fine-tuning, on the core that separates."""
