"""Training with Keras' own `fit`, in a folder from which the same command resumes."""
