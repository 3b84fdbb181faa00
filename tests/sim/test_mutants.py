"""Every mutant can be planted, and what comes of it is Python still."""

from __future__ import annotations

from pathlib import Path

from tests.sim.mutant_catalog import CATALOG
from tests.sim.mutants import copy_tree, plant


def test_every_mutant_can_be_planted_into_a_copy(tmp_path: Path) -> None:
    copy_tree(tmp_path)

    for mutant in CATALOG:
        files = {tmp_path / change.file for change in mutant.changes}
        shipped = {path: path.read_text() for path in files}
        assert plant(mutant, tmp_path) == "", mutant.name
        for path, text in shipped.items():
            assert path.read_text() != text, mutant.name
            compile(path.read_text(), str(path), "exec")
            path.write_text(text)
