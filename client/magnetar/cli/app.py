"""The command tree, its global options and how an error reaches a person."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from magnetar import __version__
from magnetar.cli import consume, perf, produce
from magnetar.errors import MagnetarError

app = typer.Typer(
    name="magnetar",
    help="Publish, consume and run a Magnetar cluster.",
    no_args_is_help=True,
    context_settings={"auto_envvar_prefix": "MAGNETAR", "help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # a third of the time that --help would take
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"magnetar {__version__}")
        raise typer.Exit


def _read_settings(file: Path) -> dict[str, object]:
    """The TOML file's tables: one for each command, keys as the long options with `_`."""
    import tomllib

    try:
        return tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot read {file}: {error}") from error


@app.callback()
def settings(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(envvar="MAGNETAR_CONFIG", help="TOML file, a table a command.")
    ] = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options come from the command line, then MAGNETAR_<COMMAND>_<OPTION>, then the file."""
    if config is not None:
        context.default_map = _read_settings(config)


app.command("produce")(produce.produce)
app.command("consume")(consume.consume)
app.add_typer(perf.app, name="perf")
for _entry_point in entry_points(group="magnetar.commands"):
    _entry_point.load()(app)


def main() -> None:
    """Run the command; an error is one line on stderr and exit status 1."""
    try:
        app()
    except MagnetarError as error:
        typer.echo(f"magnetar: {type(error).__name__}: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
