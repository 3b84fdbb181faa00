"""Puts the parts of administration together for one broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from broker.administration.catalog import AdministeredCatalog
from broker.administration.local import LocalAdministration
from broker.administration.routed import RoutedAdministration
from broker.administration.routing import OwnerAdministration, Routing
from broker.administration.service import AdminService
from broker.administration.tenant_calls import TenantCalls
from broker.administration.topic_calls import TopicCalls
from broker.broker import Broker
from magnetar.runtime.clock import Clock
from metadata.store import MetadataStore
from tenants.administration import TenantAdministration
from tenants.members import ClusterMembers
from tenants.policies import TopicPolicies
from tenants.policy_view import PolicyView


class Administration(NamedTuple):
    """`topics` does any call, wherever the topic is served; `here` those that end here."""

    topics: RoutedAdministration
    here: LocalAdministration


def administration_of(
    broker: Broker, store: MetadataStore, clock: Clock, peer: Callable[[str], OwnerAdministration]
) -> Administration:
    """The port `TopicAdministration` on one broker; `peer` is another's, by address."""
    here = LocalAdministration(broker, clock)
    catalog = AdministeredCatalog(store, broker.catalog, broker.directory)
    routing = Routing(broker, here, peer, clock, catalog.partitions_of)
    everywhere = RoutedAdministration(catalog, routing)

    broker.rounds.finish_partitioned = everywhere.topics.finish_deletion
    return Administration(everywhere, here)


def admin_service(
    administration: Administration, store: MetadataStore, defaults: TopicPolicies | None
) -> AdminService:
    """The gRPC service over it."""
    tenants = TenantCalls(
        TenantAdministration(store, defaults=defaults), PolicyView(store, defaults=defaults),
        ClusterMembers(store),
    )
    topics = TopicCalls(*administration)
    return AdminService({**tenants.calls(), **topics.calls()})
