"""Proven upper bounds of operator norms, from a kernel alone."""
