"""What administration answers with: tenants, namespaces, policies and the cluster's processes.

Field names are those of the messages in `proto/admin.proto`, which `codec` relies on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PolicyValue = int | bool | str


@dataclass(frozen=True, slots=True)
class TenantInfo:
    """A tenant: who may administer it, and in which clusters it may be (none named: all)."""

    name: str
    admin_roles: tuple[str, ...] = ()
    allowed_clusters: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class NamespaceInfo:
    """`name` is tenant/namespace; `policies` are those set on it, nothing inherited."""

    name: str
    policies: Mapping[str, PolicyValue] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class EffectivePolicy:
    """One policy as it holds, and the level it comes from: default, cluster, namespace, topic."""

    name: str
    value: PolicyValue
    source: str
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class BrokerInfo:
    """A broker that is alive."""

    broker_id: str
    address: str
    admin_address: str
    """Where it serves HTTP; empty: nowhere."""
    incarnation: str
    """Tells this life of it from its others."""


@dataclass(frozen=True, slots=True)
class BookieInfo:
    """A bookie that is or was there."""

    bookie_id: str
    state: str
    """writable, read-only or down."""
    address: str
    admin_address: str
    rack: str
