"""The command group, loaded when it is used, so that other commands do not pay for it."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import typer
from typer.core import TyperGroup


class LoadedWhenUsed(TyperGroup):
    """A group whose commands come from `magnetar.cli.admin.commands`, on first use."""

    _own: MutableMapping[str, Any] | None = None

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """By name."""
        if self._own is None:
            from magnetar.cli.admin.commands import app

            self._own = typer.main.get_group(app).commands
        return self._own

    @commands.setter
    def commands(self, given: MutableMapping[str, Any]) -> None:
        """Click gives a group its commands when it is made: here there are none yet."""


app = typer.Typer(cls=LoadedWhenUsed, no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _admin() -> None:
    """Administer topics, subscriptions, policies and all else.

    Any broker takes any command. Each prints a table for people, or JSON with --json. What
    deletes or gives up something asks for a confirmation, or for --yes.
    """
