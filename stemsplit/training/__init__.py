"""Training and fine-tuning of networks; validation runs on the same core as separation."""
