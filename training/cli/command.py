"""Commands whose every failure is one line on standard error."""

import sys
import traceback
from typing import Any, NoReturn

import click

from training.runs.files import is_full, trouble

# By name, since the modules of some would first import TensorFlow.
_EXPECTED = ("RunError", "DataError", "ConvergenceError")


class Verb(click.Command):
    """A command with --debug, which shows where an error comes from."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            click.Option(
                ["--debug"],
                is_flag=True,
                expose_value=False,
                callback=lambda ctx, _, value: ctx.meta.update(debug=value),
                help="Show tracebacks.",
            )
        )

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except KeyboardInterrupt as error:  # Click would write an empty line first
            raise click.Abort from error
        except Exception as error:  # the user gets a line, whatever happens
            if ctx.meta["debug"]:
                click.echo(traceback.format_exc(), err=True, nl=False)
            raise click.ClickException(_line(error)) from error


class Verbs(click.Group):
    """A group of `Verb`s that reports wrong usage in one line, too."""

    command_class = Verb

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        try:
            status = super().main(*args, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(error.exit_code)
        except click.ClickException as error:
            hint = ""
            if isinstance(error, click.UsageError) and error.ctx is not None:
                hint = f"; see `{error.ctx.command_path} --help`"
            message = " ".join(error.format_message().split()).removesuffix(".")
            click.echo(f"error: {message}{hint}", err=True)
            sys.exit(error.exit_code)
        except click.Abort:
            click.echo("error: interrupted; give the same command again to go on", err=True)
            sys.exit(130)
        sys.exit(status if isinstance(status, int) else 0)


def _line(error: Exception) -> str:
    message = " ".join(str(error).split())
    if any(kind.__name__ in _EXPECTED for kind in type(error).__mro__):
        return message
    if is_full(error):
        place = getattr(error, "filename", None)
        return trouble(error) if place is None else f"{place!r} cannot be written: {trouble(error)}"
    return f"{type(error).__name__}: {message}; add --debug to see where"
