"""What several families share, written once."""
