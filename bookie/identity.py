"""Whose disk this is: a cookie in the data folder and the same one in the metadata (R17).

A bookie that comes up with another disk under its old name would say "no such entry" of what it
once acknowledged. So a missing or different cookie is a refusal to start.

    on disk   in metadata
    none      none          a new bookie, provided its folder holds no log
    C         none          C was written first and the start was cut short; no log yet: go on
    C         C             go on
    none      C             the disk was lost or replaced: refuse, or accept the loss (limbo)
    C         D             another bookie's disk, or another cluster's: refuse always
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from typing import Final

from magnetar.errors import AlreadyExists, InvalidFrame, NotFound, StorageError
from magnetar.ids import BookieId
from magnetar.runtime.disk import Disk
from metadata.bookies import BookieRepository

COOKIE_NAME: Final = "cookie.json"
_FORMAT: Final = 1


class WrongIdentity(StorageError):
    """The data folder is not the one this bookie is known by; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Cookie:
    """`instance` is drawn once for each disk."""

    bookie_id: str
    cluster_id: str
    instance: str

    def encode(self) -> bytes:
        """As stored in both places."""
        return json.dumps({"v": _FORMAT, **asdict(self)}, sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> Cookie:
        """Raises InvalidFrame."""
        try:
            fields = json.loads(data)
            if fields["v"] != _FORMAT:
                raise InvalidFrame(f"cookie format {fields['v']} is not known to this version")
            return cls(*(str(fields[name]) for name in ("bookie_id", "cluster_id", "instance")))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidFrame(f"not a cookie: {data[:80]!r}") from error


async def establish_identity(
    disk: Disk,
    bookies: BookieRepository,
    bookie_id: BookieId,
    cluster_id: str,
    random_: random.Random,
    *,
    accept_loss: bool = False,
) -> Cookie | None:
    """Check the cookies, or make them. Raises WrongIdentity.

    A cookie is answered when a lost disk was accepted: it is to be put by `adopt` once the
    limbo is durable, so that a crash before that is refused like the loss itself.
    """
    local = _read_local(disk)
    try:
        value, version = await bookies.get_cookie(bookie_id)
        known: Cookie | None = Cookie.decode(value)
    except NotFound:
        known, version = None, -1
    has_log = bool(disk.names("log-"))
    if local is not None and (local.bookie_id, local.cluster_id) != (bookie_id, cluster_id):
        raise WrongIdentity(
            f"this data folder belongs to bookie {local.bookie_id} of cluster {local.cluster_id},"
            f" not to bookie {bookie_id} of cluster {cluster_id}; check the data folder and the id"
        )
    if local is not None and known == local:
        return None
    if known is None:
        await _settle_new(disk, bookies, bookie_id, cluster_id, random_, local, has_log)
        return None
    if local is not None:
        raise WrongIdentity(
            f"bookie {bookie_id} is known by another disk (instance {known.instance}, here"
            f" {local.instance}); give this one another bookie id, or bring the right disk back"
        )
    if not accept_loss:
        raise WrongIdentity(
            f"the data of bookie {bookie_id} are missing: its folder holds no {COOKIE_NAME}."
            " Bring the right disk back; or, if it is lost for good, start once with"
            " --accept-loss, which keeps the bookie from denying entries it once held"
        )
    fresh = _fresh(bookie_id, cluster_id, random_)
    await bookies.update_cookie(bookie_id, fresh.encode(), version)
    return fresh


async def adopt(disk: Disk, cookie: Cookie) -> None:
    """Make this disk the one of the cookie, durably."""
    await disk.replace(COOKIE_NAME, cookie.encode())


async def _settle_new(
    disk: Disk,
    bookies: BookieRepository,
    bookie_id: BookieId,
    cluster_id: str,
    random_: random.Random,
    local: Cookie | None,
    has_log: bool,
) -> None:
    if has_log:
        raise WrongIdentity(
            f"this data folder holds a log, but the metadata knows no bookie {bookie_id}: it was"
            " taken out of service, or the metadata are another cluster's"
        )
    cookie = local
    if cookie is None:
        cookie = _fresh(bookie_id, cluster_id, random_)
        await adopt(disk, cookie)
    try:
        await bookies.create_cookie(bookie_id, cookie.encode())
    except AlreadyExists as error:
        raise WrongIdentity(
            f"another process registered bookie {bookie_id} just now; ids must differ"
        ) from error


def _read_local(disk: Disk) -> Cookie | None:
    try:
        return Cookie.decode(disk.read(COOKIE_NAME))
    except FileNotFoundError:
        return None


def _fresh(bookie_id: BookieId, cluster_id: str, random_: random.Random) -> Cookie:
    return Cookie(bookie_id, cluster_id, f"{random_.getrandbits(64):016x}")
