"""The command line: `python -m training VERB`. TensorFlow is imported by the verbs that need it."""

from training.cli.verbs import main

__all__ = ["main"]
