"""What the user reads: progress on standard output, warnings on standard error."""

import click


def say(message: str) -> None:
    """Prints a line of progress."""
    click.echo(message)


def warn(message: str) -> None:
    """Prints a warning of one line."""
    click.echo(f"warning: {message}", err=True)
