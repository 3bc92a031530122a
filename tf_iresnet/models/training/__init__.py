"""How a Keras model is put together and trained: batches, an objective, steps, an average."""
