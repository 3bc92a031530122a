"""What an experiment is: its settings, those that come with the package, and changes to them."""
