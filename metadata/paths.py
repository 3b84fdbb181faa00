"""Every path of the metadata, built here and nowhere else.

    /cluster                                    who the cluster is
    /policies/cluster                           policies of the whole cluster
    /policies/topics/TENANT/NAMESPACE/BB/TOPIC  policies of one topic
    /tenants/TENANT/NAMESPACE                   tenants and their namespaces
    /topics/TENANT/NAMESPACE/BB/TOPIC           a topic: owner, ledgers, state ledgers; or a
                                                partitioned topic: its number of partitions
    /partitioned/TENANT/NAMESPACE/BB/TOPIC      which of them are partitioned
    /generations/TENANT/NAMESPACE               changes when a namespace's topics do
    /scheduled/BB/LEDGER-TOPIC                  a topic has this ledger in its schedule
    /ledgers/next                               the next free ledger id
    /ledgers/by-id/HHHHHHHHHH/MMM/LLL           a ledger, by its id in hexadecimal
    /bookies/registered/BOOKIE  (ephemeral)     a live bookie
    /bookies/cookies/BOOKIE                     the identity of a bookie's disks
    /brokers/BROKER             (ephemeral)     a live broker

Names that people choose are percent-encoded. BB is a hash of the topic's name (256 buckets),
and a ledger's id is cut in three, so that no list of children comes near the 1 MB of a packet.
"""

from __future__ import annotations

import zlib
from typing import Final
from urllib.parse import quote, unquote

from magnetar.errors import InvalidArgument, InvalidTopicName
from magnetar.ids import BookieId, BrokerId, LedgerId

CLUSTER: Final = "/cluster"
CLUSTER_POLICIES: Final = "/policies/cluster"
TENANTS: Final = "/tenants"
SCHEDULED: Final = "/scheduled"
NEXT_LEDGER: Final = "/ledgers/next"
LEDGERS: Final = "/ledgers/by-id"
BOOKIES: Final = "/bookies/registered"
BOOKIE_COOKIES: Final = "/bookies/cookies"
BROKERS: Final = "/brokers"

PERSISTENT: Final = "persistent://"
_SAFE: Final = "~:@!$&'()*+,;="


def encode_name(name: str) -> str:
    """A chosen name as one part of a path; raises InvalidArgument when empty."""
    if not name:
        raise InvalidArgument("a name must not be empty")
    encoded = quote(name, safe=_SAFE)
    return encoded if encoded.strip(".") else encoded.replace(".", "%2E")


def decode_name(part: str) -> str:
    """The inverse of `encode_name`."""
    return unquote(part)


def split_topic(name: str) -> tuple[str, str, str]:
    """(tenant, namespace, local name) of a full persistent name; raises InvalidTopicName."""
    tenant, _, rest = name.removeprefix(PERSISTENT).partition("/")
    namespace, _, local = rest.partition("/")
    if not name.startswith(PERSISTENT) or not (tenant and namespace and local):
        raise InvalidTopicName(
            f"only topics named {PERSISTENT}tenant/namespace/topic are recorded, not {name!r}"
        )
    return tenant, namespace, local


def tenant(name: str) -> str:
    return f"{TENANTS}/{encode_name(name)}"


def namespace(tenant_name: str, name: str) -> str:
    return f"{tenant(tenant_name)}/{encode_name(name)}"


def topics_of(tenant_name: str, namespace_name: str) -> str:
    """The folder of a namespace's topic buckets."""
    return f"/topics/{encode_name(tenant_name)}/{encode_name(namespace_name)}"


def topic(name: str) -> str:
    """The node of a topic, by its full name; raises InvalidTopicName."""
    return f"/topics/{_topic_part(name)}"


def topic_bucket(name: str) -> str:
    """The folder that a topic's node lies in; raises InvalidTopicName."""
    return topic(name).rpartition("/")[0]


def partitioned_topics_of(tenant_name: str, namespace_name: str) -> str:
    """The folder of the buckets in which a namespace's partitioned topics are told apart."""
    return f"/partitioned/{encode_name(tenant_name)}/{encode_name(namespace_name)}"


def partitioned_topic(name: str) -> str:
    """Says that the topic is partitioned, by its full name; raises InvalidTopicName."""
    return f"/partitioned/{_topic_part(name)}"


def topic_generation(tenant_name: str, namespace_name: str) -> str:
    """Put after a namespace's topics changed."""
    return f"/generations/{encode_name(tenant_name)}/{encode_name(namespace_name)}"


def scheduled_topic(name: str, ledger_id: LedgerId) -> str:
    """Says that the topic of this full name has this ledger in its schedule; names of one bucket
    sort by ledger."""
    bucket = zlib.crc32(name.encode()) & 0xFF
    local = encode_name(name.removeprefix(PERSISTENT))
    return f"{SCHEDULED}/{bucket:02x}/{_ledger_number(ledger_id):016x}-{local}"


def scheduled_topic_of(part: str) -> tuple[str, LedgerId]:
    """The topic's full name and the ledger, of the last part of a `scheduled_topic`."""
    number, _, local = part.partition("-")
    return PERSISTENT + decode_name(local), LedgerId(int(number, 16))


def topic_policies_of(tenant_name: str, namespace_name: str) -> str:
    """The folder of the buckets of policies of a namespace's topics."""
    return f"/policies/topics/{encode_name(tenant_name)}/{encode_name(namespace_name)}"


def topic_policies(name: str) -> str:
    """The node of a topic's own policies; raises InvalidTopicName."""
    return f"/policies/topics/{_topic_part(name)}"


def _topic_part(name: str) -> str:
    tenant_name, namespace_name, local = split_topic(name)
    bucket = zlib.crc32(local.encode()) & 0xFF
    return (
        f"{encode_name(tenant_name)}/{encode_name(namespace_name)}"
        f"/{bucket:02x}/{encode_name(local)}"
    )


def ledger(ledger_id: LedgerId) -> str:
    """Raises InvalidArgument for a negative id or one above 63 bits."""
    number = _ledger_number(ledger_id)
    return f"{LEDGERS}/{number >> 24:010x}/{number >> 12 & 0xFFF:03x}/{number & 0xFFF:03x}"


def _ledger_number(ledger_id: LedgerId) -> int:
    if not 0 <= ledger_id < 1 << 63:
        raise InvalidArgument(f"not a ledger id: {ledger_id}")
    return ledger_id


def ledgers_beside(ledger_id: LedgerId) -> str:
    """The folder of a ledger's node, which those of 4096 neighbours share."""
    return ledger(ledger_id).rpartition("/")[0]


def ledger_id_of(high: str, middle: str, low: str) -> LedgerId:
    """The id whose `ledger` path ends in these three parts; raises ValueError."""
    return LedgerId(int(high, 16) << 24 | int(middle, 16) << 12 | int(low, 16))


def bookie(bookie_id: BookieId) -> str:
    return f"{BOOKIES}/{encode_name(bookie_id)}"


def bookie_cookie(bookie_id: BookieId) -> str:
    return f"{BOOKIE_COOKIES}/{encode_name(bookie_id)}"


def broker(broker_id: BrokerId) -> str:
    return f"{BROKERS}/{encode_name(broker_id)}"

