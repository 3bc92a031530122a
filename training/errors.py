"""The error of this package: one line for the user, who can do something about it."""


class RunError(RuntimeError):
    """An experiment cannot be run; the message is one line and says what to do."""
