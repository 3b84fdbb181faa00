"""The command tree, its global options and how an error reaches a person."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from magnetar import __version__
from magnetar.cli import consume, dlq, perf, produce, pull, read, request
from magnetar.cli.admin import group as admin
from magnetar.errors import ConnectionFailed, MagnetarError

HINT_NOBODY_THERE: Final = (
    "; is it running there, and is the address right? `magnetar standalone --data DIR` "
    "starts a server; --url, MAGNETAR_SERVICE_URL or --metadata name another"
)

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


def _read_settings(file: Path) -> dict[str, Any]:
    """The TOML file's tables: one for each command, keys as the long options with `_`."""
    import tomllib

    try:
        return tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot read {file}: {error}") from error


def _refuse_unknown(command: Any, table: Mapping[str, Any], where: str) -> None:
    """A misspelt setting must not be passed over."""
    parts = getattr(command, "commands", {})
    options = {one.name for one in command.params if "--config" not in one.opts}
    for key, value in table.items():
        if key in parts and isinstance(value, dict):
            _refuse_unknown(parts[key], value, f"{where}[{key}] ")
        elif key not in options:
            known = ", ".join(sorted({*parts, *options} - {"_version", "help"}))
            raise typer.BadParameter(f"{where}has no setting {key!r}; known: {known}")


@app.callback()
def settings(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option(
            envvar="MAGNETAR_CONFIG", help="A TOML file with a table for each command.")
    ] = None,
    _version: Annotated[
        bool, typer.Option(
            "--version", callback=_print_version, is_eager=True, show_envvar=False,
            help="Say which version this is.")
    ] = False,
) -> None:
    """Options come from the command line, then MAGNETAR_<COMMAND>_<OPTION>, then the file."""
    if config is not None:
        context.default_map = _read_settings(config)
        _refuse_unknown(context.command, context.default_map, f"{config}: ")


app.command("produce")(produce.produce)
app.command("consume")(consume.consume)
app.command("read")(read.read)
app.command("pull")(pull.pull)
app.command("request")(request.request)
app.add_typer(dlq.app, name="dlq")
app.add_typer(perf.app, name="perf")
app.add_typer(admin.app, name="admin")
for _entry_point in entry_points(group="magnetar.commands"):
    _entry_point.load()(app)


def main() -> None:
    """Run the command; an error is one line on stderr and exit status 1."""
    try:
        app()
    except MagnetarError as error:
        hint = HINT_NOBODY_THERE if isinstance(error, ConnectionFailed) else ""
        typer.echo(f"magnetar: {type(error).__name__}: {error}{hint}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
