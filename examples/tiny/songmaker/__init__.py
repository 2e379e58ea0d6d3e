"""Generator of songs from a seed: composed, rendered stem by stem, and mixed like records."""
