"""Tenants, namespaces and policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from magnetar.admin.codec import policy_message, policy_of, read
from magnetar.admin.topics import full
from magnetar.admin.transport import Transport, ask
from magnetar.admin.values import EffectivePolicy, NamespaceInfo, PolicyValue, TenantInfo
from magnetar.wire import admin_pb2 as pb


class Tenants:
    """`client.admin.tenants`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self, tenant: str, *, admin_roles: Sequence[str] = (),
        allowed_clusters: Sequence[str] = (), properties: Mapping[str, str] | None = None,
    ) -> TenantInfo:
        """A tenant, with who may administer it, and in which clusters it may be (none named:
        all). Raises ResourceExists."""
        request = pb.CreateTenantRequest(
            tenant=tenant, admin_roles=admin_roles, allowed_clusters=allowed_clusters,
            properties=properties or {},
        )
        reply = await ask(self._transport, "CreateTenant", request, pb.TenantReply)
        return read(TenantInfo, reply.tenant)

    async def list(self) -> tuple[str, ...]:
        """All names, sorted."""
        request = pb.ListTenantsRequest()
        return tuple((await ask(self._transport, "ListTenants", request, pb.NamesReply)).names)

    async def get(self, tenant: str) -> TenantInfo:
        """One tenant. Raises ResourceNotFound."""
        request = pb.GetTenantRequest(tenant=tenant)
        reply = await ask(self._transport, "GetTenant", request, pb.TenantReply)
        return read(TenantInfo, reply.tenant)

    async def delete(self, tenant: str) -> None:
        """Delete an empty tenant. Raises ResourceInUse while it has namespaces,
        ResourceNotFound."""
        request = pb.DeleteTenantRequest(tenant=tenant)
        await ask(self._transport, "DeleteTenant", request, pb.DoneReply)


class Namespaces:
    """`client.admin.namespaces`; a namespace is named tenant/namespace."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(
        self, namespace: str, policies: Mapping[str, PolicyValue] | None = None
    ) -> NamespaceInfo:
        """A namespace, with policies of its own. Raises ResourceExists, ResourceNotFound without
        its tenant, InvalidArgument for a policy that is unknown or out of bounds."""
        request = pb.CreateNamespaceRequest(namespace=namespace)
        for name, value in (policies or {}).items():
            request.policies[name].CopyFrom(policy_message(value))
        reply = await ask(self._transport, "CreateNamespace", request, pb.NamespaceReply)
        return read(NamespaceInfo, reply.namespace)

    async def list(self, tenant: str) -> tuple[str, ...]:
        """All of a tenant as tenant/namespace, sorted. Raises ResourceNotFound."""
        request = pb.ListNamespacesRequest(tenant=tenant)
        return tuple((await ask(self._transport, "ListNamespaces", request, pb.NamesReply)).names)

    async def get(self, namespace: str) -> NamespaceInfo:
        """One namespace. Raises ResourceNotFound."""
        request = pb.GetNamespaceRequest(namespace=namespace)
        reply = await ask(self._transport, "GetNamespace", request, pb.NamespaceReply)
        return read(NamespaceInfo, reply.namespace)

    async def delete(self, namespace: str) -> None:
        """Delete an empty namespace, with the policies of its topics. Raises ResourceInUse while
        it has topics, ResourceNotFound."""
        request = pb.DeleteNamespaceRequest(namespace=namespace)
        await ask(self._transport, "DeleteNamespace", request, pb.DoneReply)


class Policies:
    """`client.admin.policies`: of a namespace or a topic, and of the cluster when neither is
    named. What can be set is listed in docs/policies.md."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def set(
        self, changes: Mapping[str, PolicyValue | None], *, namespace: str = "", topic: str = ""
    ) -> dict[str, PolicyValue]:
        """Change some and answer what is set at that level now; None takes one back, so that the
        wider level counts. Raises InvalidArgument, ResourceNotFound."""
        request = pb.SetPoliciesRequest(namespace=namespace, topic=topic and full(topic))
        for name, value in changes.items():
            change = request.changes.add(name=name)
            if value is not None:
                change.value.CopyFrom(policy_message(value))
        reply = await ask(self._transport, "SetPolicies", request, pb.PoliciesReply)
        return {name: policy_of(value) for name, value in reply.policies.items()}

    async def get(self, *, namespace: str = "", topic: str = "") -> dict[str, PolicyValue]:
        """What is set at that level, nothing inherited. Raises ResourceNotFound."""
        request = pb.GetPoliciesRequest(namespace=namespace, topic=topic and full(topic))
        reply = await ask(self._transport, "GetPolicies", request, pb.PoliciesReply)
        return {name: policy_of(value) for name, value in reply.policies.items()}

    async def effective(
        self, *, namespace: str = "", topic: str = ""
    ) -> tuple[EffectivePolicy, ...]:
        """Every policy as it holds there, with the level it comes from."""
        request = pb.GetPoliciesRequest(namespace=namespace, topic=topic and full(topic))
        reply = await ask(
            self._transport, "EffectivePolicies", request, pb.EffectivePoliciesReply
        )
        return tuple(read(EffectivePolicy, one) for one in reply.policies)
