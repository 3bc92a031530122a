"""Models that the invertible ones are compared with."""
