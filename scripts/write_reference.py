"""Writes docs/reference from the code: the commands of `magnetar admin` and the calls of
`client.admin`. With --check it only says, by exit status 1, that something is not fresh."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY / "client")]
REFERENCE = REPOSITORY / "docs" / "reference"
GENERATED = "*Written from the code by `make reference`; edit the code instead.*"
MODULE = re.compile(r"\b(?:magnetar|collections|typing)(?:\.\w+)*\.(?=[A-Z])")


def commands() -> str:
    """The commands of `magnetar admin`."""
    import typer

    from magnetar.cli.admin.commands import app

    lines = [
        "# Commands of `magnetar admin`", "", GENERATED, "",
        "Every command takes `--url` (or `MAGNETAR_SERVICE_URL`); any broker will do. `--json`"
        " prints JSON instead of text for people. What deletes or gives up something asks to be"
        " confirmed, unless `--yes` is said. An error is one line and exit status 1. See"
        " [the cookbook](../cookbook/administration.md) for what to use when.",
    ]
    group = typer.main.get_group(app)
    for noun, verbs in group.commands.items():
        lines += ["", f"## {noun}", "", verbs.get_short_help_str(200)]
        for verb, command in verbs.commands.items():
            lines += ["", *_command(f"magnetar admin {noun} {verb}", command)]
    return "\n".join(lines) + "\n"


def _command(path: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [
        one for one in command.params if one.param_type_name == "option"
        and one.name not in ("url", "help", "json")
    ]
    shown = " ".join(_place(one) for one in arguments)
    yield f"### {noun_and_verb(path)}"
    yield ""
    text, _, examples = (command.help or "").partition("\b")
    yield " ".join(text.split())
    yield ""
    yield f"    {path} {shown}".rstrip()
    if examples.strip():
        yield from (f"    {line.strip()}" for line in examples.strip().splitlines())
    rows = [(_place(one), one.help) for one in arguments] + [
        (", ".join(one.opts) + ("" if one.is_flag else f" {one.metavar or one.name.upper()}"),
         one.help)
        for one in options
    ]
    if rows:
        yield from ("", "| | |", "|---|---|")
        yield from (f"| `{name}` | {text or ''} |" for name, text in rows)


def _place(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def noun_and_verb(path: str) -> str:
    """`topics create` of the whole command."""
    return path.removeprefix("magnetar admin ")


def calls() -> str:
    """The calls of `client.admin`, with the values that they answer with."""
    from magnetar.admin import schedule_values, topic_values, values
    from magnetar.admin.admin import Admin

    lines = [
        "# Calls of `client.admin`", "", GENERATED, "",
        "All are coroutines of `magnetar.Client().admin`, and block in `magnetar.sync`. See"
        " [the cookbook](../cookbook/administration.md) for what to use when.",
    ]
    for noun, group in vars(Admin(None)).items():  # type: ignore[arg-type]
        lines += ["", f"## {noun}", "", _doc(type(group))]
        for name, method in vars(type(group)).items():
            if not name.startswith("_"):
                lines += ["", f"### {noun}.{name}", "", f"    {_signature(name, method)}", "",
                          _doc(method)]
    lines += ["", "## What they answer with"]
    for module in (values, topic_values, schedule_values):
        for name, kind in vars(module).items():
            if inspect.isclass(kind) and kind.__module__ == module.__name__:
                lines += ["", f"### {name}", "", _doc(kind), "", *_fields(kind)]
    return "\n".join(lines) + "\n"


def _doc(what: Any) -> str:
    return inspect.cleandoc(what.__doc__ or "")


def _signature(name: str, method: Any) -> str:
    found = inspect.signature(method)
    parameters = [one for one in found.parameters.values() if one.name != "self"]
    text = str(found.replace(parameters=parameters)).replace("'", "")
    return f"{name}{MODULE.sub('', text)}"


def _fields(kind: Any) -> Iterator[str]:
    if issubclass(kind, Enum):
        for member in kind:
            yield f"- `{member.name}`"
    else:
        for name, hint in kind.__annotations__.items():
            yield f"- `{name}`: `{MODULE.sub('', str(hint))}`"


PAGES = {"admin_commands.md": commands, "admin_calls.md": calls}


def main() -> int:
    """Write the pages, or check them."""
    stale = []
    for name, make in PAGES.items():
        page, text = REFERENCE / name, make()
        if "--check" in sys.argv:
            if not page.exists() or page.read_text() != text:
                stale.append(name)
        else:
            REFERENCE.mkdir(exist_ok=True)
            page.write_text(text)
    if stale:
        print(f"run `make reference`: not fresh are {', '.join(stale)}")
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
