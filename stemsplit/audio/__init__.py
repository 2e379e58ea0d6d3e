"""Read, resample and write audio as streams of NumPy blocks [C, n], without torch."""
