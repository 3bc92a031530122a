"""Experiments with invertible residual networks: data, configurations, training, command line."""
