"""Topic names: the full form, and the short forms people type."""

from __future__ import annotations

import re
from dataclasses import dataclass

from magnetar.errors import InvalidTopicName

DEFAULT_TENANT = "public"
DEFAULT_NAMESPACE = "default"
MAX_NAME_BYTES = 255
_PART = re.compile(r"[-=:.\w]+", re.ASCII)
_PARTITION = re.compile(r"(.+)-partition-(0|[1-9][0-9]{0,8})")
_FORM = "{persistent|non-persistent}://tenant/namespace/topic, tenant/namespace/topic or topic"


@dataclass(frozen=True, order=True, slots=True)
class TopicName:
    """A topic's full name in its parts; `local` still has the partition suffix, if any."""

    persistent: bool
    tenant: str
    namespace: str
    local: str

    @classmethod
    def parse(cls, text: str) -> TopicName:
        """From the full or a short form; raises InvalidTopicName with what is wrong."""
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "persistent", text
        if scheme not in ("persistent", "non-persistent"):
            raise InvalidTopicName(f"{text!r}: unknown domain {scheme!r}; write {_FORM}")
        parts = rest.split("/")
        if len(parts) == 1 and not separator:
            parts = [DEFAULT_TENANT, DEFAULT_NAMESPACE, rest]
        if len(parts) != 3:
            raise InvalidTopicName(f"{text!r}: write {_FORM}")
        tenant, namespace, local = parts
        check_name(tenant, "tenant")
        check_name(namespace, "namespace")
        _check_local(local, text)
        return cls(scheme == "persistent", tenant, namespace, local)

    @property
    def full(self) -> str:
        domain = "persistent" if self.persistent else "non-persistent"
        return f"{domain}://{self.tenant}/{self.namespace}/{self.local}"

    @property
    def partition(self) -> int:
        """The number in the partition suffix; -1 without one."""
        match = _PARTITION.fullmatch(self.local)
        return -1 if match is None else int(match[2])

    @property
    def base(self) -> TopicName:
        """The topic this is a partition of; itself when it is none."""
        match = _PARTITION.fullmatch(self.local)
        return self if match is None else self._with_local(match[1])

    def with_partition(self, number: int) -> TopicName:
        """The name of this topic's partition `number`."""
        if number < 0 or self.partition >= 0:
            raise InvalidTopicName(f"{self.full} has no partition {number}")
        return self._with_local(f"{self.local}-partition-{number}")

    def _with_local(self, local: str) -> TopicName:
        return TopicName(self.persistent, self.tenant, self.namespace, local)

    def __str__(self) -> str:
        return self.full


def check_name(name: str, what: str) -> None:
    """Raise InvalidTopicName unless `name` can name a tenant or namespace."""
    if not _PART.fullmatch(name) or name in (".", "..") or len(name) > MAX_NAME_BYTES:
        raise InvalidTopicName(
            f"{name!r} is no {what} name: letters, digits and any of -_=:. up to "
            f"{MAX_NAME_BYTES} characters"
        )


def _check_local(local: str, text: str) -> None:
    try:
        size = len(local.encode())
    except UnicodeEncodeError as error:
        raise InvalidTopicName(f"{text!r}: the topic is not valid Unicode") from error
    printable = local.isprintable() and not any(map(str.isspace, local))
    if not local or not printable or local in (".", "..") or size > MAX_NAME_BYTES:
        raise InvalidTopicName(
            f"{text!r}: a topic has 1 to {MAX_NAME_BYTES} bytes without spaces or slashes"
        )
