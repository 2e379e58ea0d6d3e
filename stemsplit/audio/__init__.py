"""Reading, resampling and writing audio as streams of NumPy blocks [C, n]; no torch here."""
