"""The cookbook's programs, run as they are written: each Python block is a whole one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.test_readme import REPOSITORY, run, url

COOKBOOK = REPOSITORY / "docs" / "cookbook"
PAGES = sorted(page for page in COOKBOOK.glob("*.md") if page.name != "README.md")

BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
PROGRAMS = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, text in enumerate(BLOCK.findall(page.read_text()))
]

SHELL = re.compile(r"^```sh\n(.*?)^```", re.S | re.M)
SESSIONS = [
    pytest.param("".join(blocks), id=page.stem)
    for page in PAGES
    if (blocks := SHELL.findall(page.read_text()))
]

SESSION_LIMIT_S = 240
"""Some have two dozen commands, each a process of its own: a busy machine takes seconds for one."""

__all__ = ["url"]


def test_every_page_is_listed_and_has_a_program_that_runs() -> None:
    contents = (COOKBOOK / "README.md").read_text()

    assert [page.name for page in PAGES if f"({page.name})" not in contents] == []
    assert [page.name for page in PAGES if not BLOCK.search(page.read_text())] == []


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_uses_a_client(program: str) -> None:
    """Else a fragment that only defines or imports something would pass for one that runs."""
    assert re.search(r"^asyncio\.run\(|^with .*\bClient\(", program, re.M)


@pytest.mark.parametrize("program", PROGRAMS)
def test_program_runs(program: str, url: str, tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(program)

    run(sys.executable, "-W", "error", str(file), url=url)


@pytest.mark.timeout(SESSION_LIMIT_S + 30)
@pytest.mark.parametrize("session", SESSIONS)
def test_shell_session_runs(session: str, url: str) -> None:
    """All shell blocks of a page, one after the other."""
    magnetar = f'magnetar() {{ "{sys.executable}" -m magnetar "$@"; }}'

    run("bash", "-euc", f"{magnetar}\n{session}", url=url, limit_s=SESSION_LIMIT_S)
