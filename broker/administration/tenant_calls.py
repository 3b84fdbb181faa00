"""The calls about tenants, namespaces, policies and processes: message in, message out."""

from __future__ import annotations

from collections.abc import Mapping

from broker.administration.calls import Calls
from broker.administration.listing import split_namespace
from magnetar.admin.codec import fill, policy_message, policy_of
from magnetar.admin.values import PolicyValue
from magnetar.errors import InvalidArgument
from magnetar.topic import TopicName
from magnetar.wire import admin_pb2 as pb
from tenants.administration import TenantAdministration
from tenants.members import ClusterMembers
from tenants.policy_view import PolicyView


class TenantCalls:
    """Handlers over `tenants`, which knows nothing of gRPC."""

    def __init__(
        self, tenants: TenantAdministration, policies: PolicyView, members: ClusterMembers
    ) -> None:
        self._tenants = tenants
        self._policies = policies
        self._members = members

    def calls(self) -> Calls:
        """By method name."""
        return {
            "CreateTenant": (pb.CreateTenantRequest, pb.TenantReply, self._create_tenant),
            "ListTenants": (pb.ListTenantsRequest, pb.NamesReply, self._list_tenants),
            "GetTenant": (pb.GetTenantRequest, pb.TenantReply, self._get_tenant),
            "DeleteTenant": (pb.DeleteTenantRequest, pb.DoneReply, self._delete_tenant),
            "CreateNamespace": (
                pb.CreateNamespaceRequest, pb.NamespaceReply, self._create_namespace),
            "ListNamespaces": (pb.ListNamespacesRequest, pb.NamesReply, self._list_namespaces),
            "GetNamespace": (pb.GetNamespaceRequest, pb.NamespaceReply, self._get_namespace),
            "DeleteNamespace": (pb.DeleteNamespaceRequest, pb.DoneReply, self._delete_namespace),
            "SetPolicies": (pb.SetPoliciesRequest, pb.PoliciesReply, self._set_policies),
            "GetPolicies": (pb.GetPoliciesRequest, pb.PoliciesReply, self._get_policies),
            "EffectivePolicies": (
                pb.GetPoliciesRequest, pb.EffectivePoliciesReply, self._effective_policies),
            "ListBrokers": (pb.ListBrokersRequest, pb.ListBrokersReply, self._list_brokers),
            "ListBookies": (pb.ListBookiesRequest, pb.ListBookiesReply, self._list_bookies),
        }

    async def _create_tenant(
        self, request: pb.CreateTenantRequest, reply: pb.TenantReply
    ) -> None:
        fill(reply.tenant, await self._tenants.create_tenant(
            request.tenant, admin_roles=tuple(request.admin_roles),
            allowed_clusters=tuple(request.allowed_clusters),
            properties=dict(request.properties),
        ))

    async def _list_tenants(self, _: pb.ListTenantsRequest, reply: pb.NamesReply) -> None:
        reply.names.extend(await self._tenants.list_tenants())

    async def _get_tenant(self, request: pb.GetTenantRequest, reply: pb.TenantReply) -> None:
        fill(reply.tenant, await self._tenants.get_tenant(request.tenant))

    async def _delete_tenant(self, request: pb.DeleteTenantRequest, _: pb.DoneReply) -> None:
        await self._tenants.delete_tenant(request.tenant)

    async def _create_namespace(
        self, request: pb.CreateNamespaceRequest, reply: pb.NamespaceReply
    ) -> None:
        tenant, name = split_namespace(request.namespace)
        policies = {key: policy_of(value) for key, value in request.policies.items()}
        fill(reply.namespace, await self._tenants.create_namespace(tenant, name, policies))

    async def _list_namespaces(
        self, request: pb.ListNamespacesRequest, reply: pb.NamesReply
    ) -> None:
        reply.names.extend(await self._tenants.list_namespaces(request.tenant))

    async def _get_namespace(
        self, request: pb.GetNamespaceRequest, reply: pb.NamespaceReply
    ) -> None:
        found = await self._tenants.get_namespace(*split_namespace(request.namespace))
        fill(reply.namespace, found)

    async def _delete_namespace(
        self, request: pb.DeleteNamespaceRequest, _: pb.DoneReply
    ) -> None:
        await self._tenants.delete_namespace(*split_namespace(request.namespace))

    async def _set_policies(
        self, request: pb.SetPoliciesRequest, reply: pb.PoliciesReply
    ) -> None:
        changes = {
            change.name: policy_of(change.value) if change.HasField("value") else None
            for change in request.changes
        }
        namespace, topic = _level(request)
        if topic is not None:
            await self._tenants.change_topic_policies(topic, changes)
        elif namespace is not None:
            await self._tenants.change_namespace_policies(*namespace, changes)
        else:
            await self._tenants.change_cluster_policies(changes)
        await self._get(namespace, topic, reply)

    async def _get_policies(
        self, request: pb.GetPoliciesRequest, reply: pb.PoliciesReply
    ) -> None:
        await self._get(*_level(request), reply)

    async def _get(
        self, namespace: tuple[str, str] | None, topic: TopicName | None, reply: pb.PoliciesReply
    ) -> None:
        found: Mapping[str, PolicyValue]
        if topic is not None:
            found = await self._policies.of_topic(topic)
        elif namespace is not None:
            found = await self._policies.of_namespace(*namespace)
        else:
            found = await self._policies.of_cluster()
        for name, value in found.items():
            reply.policies[name].CopyFrom(policy_message(value))

    async def _effective_policies(
        self, request: pb.GetPoliciesRequest, reply: pb.EffectivePoliciesReply
    ) -> None:
        namespace, topic = _level(request)
        for one in await self._policies.effective(namespace=namespace, topic=topic):
            fill(reply.policies.add(), one)

    async def _list_brokers(
        self, _: pb.ListBrokersRequest, reply: pb.ListBrokersReply
    ) -> None:
        for one in await self._members.brokers():
            fill(reply.brokers.add(), one)

    async def _list_bookies(
        self, _: pb.ListBookiesRequest, reply: pb.ListBookiesReply
    ) -> None:
        for one in await self._members.bookies():
            fill(reply.bookies.add(), one)


def _level(
    request: pb.SetPoliciesRequest | pb.GetPoliciesRequest,
) -> tuple[tuple[str, str] | None, TopicName | None]:
    """Neither: the cluster. Raises InvalidArgument for both."""
    if request.namespace and request.topic:
        raise InvalidArgument("name a namespace or a topic, not both; neither is the cluster")
    if request.topic:
        return None, TopicName.parse(request.topic)
    return (split_namespace(request.namespace) if request.namespace else None), None
