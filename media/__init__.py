"""Media and text to arrays. No torch here: training, indexing and serving share it."""
