"""The cookbook's programs, run as they are written. A block that is not a whole program is not."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.test_readme import REPOSITORY, run, url

BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
PROGRAMS = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in sorted((REPOSITORY / "docs" / "cookbook").glob("*.md"))
    for number, text in enumerate(BLOCK.findall(page.read_text()))
    if "asyncio.run(" in text or "magnetar.sync" in text
]

SHELL = re.compile(r"^```sh\n(.*?)^```", re.S | re.M)
SESSIONS = [
    pytest.param("".join(blocks), id=page.stem)
    for page in sorted((REPOSITORY / "docs" / "cookbook").glob("*.md"))
    if (blocks := SHELL.findall(page.read_text()))
]

__all__ = ["url"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_runs(program: str, url: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program)

    run(sys.executable, "-W", "error", str(file), url=url)


@pytest.mark.parametrize("session", SESSIONS)
def test_shell_session_runs(session: str, url: str) -> None:
    """All shell blocks of a page, one after the other."""
    magnetar = f'magnetar() {{ "{sys.executable}" -m magnetar "$@"; }}'

    run("bash", "-euc", f"{magnetar}\n{session}", url=url)
