"""What is measured of a finished run, and pictures of it."""
