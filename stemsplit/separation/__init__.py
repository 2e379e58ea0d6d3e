"""From inputs to published stems: one track, and batches of them."""
