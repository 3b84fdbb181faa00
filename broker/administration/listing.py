"""Pages of a namespace's topics."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable

from broker.administration.limits import PAGE_ITEMS, PAGE_ITEMS_MAX, PATTERN_CHARACTERS
from magnetar.admin.topic_values import TopicPage, TopicSummary
from magnetar.errors import InvalidArgument
from magnetar.topic import check_name


def page_of(
    topics: Iterable[TopicSummary], namespace: str, pattern: str, page_size: int, page: str
) -> TopicPage:
    """Those of the namespace that match, by name, behind the name that `page` is; persistent ones
    and others. Raises InvalidArgument."""
    matches = check_page(pattern, page_size)

    def is_wanted(name: str) -> bool:
        _, _, rest = name.partition("://")
        local = rest.removeprefix(f"{namespace}/")
        return name > page and local != rest and (matches is None or bool(matches.match(local)))

    found = sorted(
        (one for one in topics if is_wanted(one.name)), key=lambda one: one.name
    )
    shown = tuple(found[: page_size or PAGE_ITEMS])
    return TopicPage(shown, shown[-1].name if len(found) > len(shown) else "")


def joined(pages: Iterable[TopicPage], page_size: int) -> TopicPage:
    """One page of several that begin behind the same name; what two brokers have is told once."""
    found: dict[str, TopicSummary] = {}
    is_more = False
    for page in pages:
        found |= {one.name: one for one in page.topics}
        is_more = is_more or bool(page.next_page)
    names = sorted(found)
    shown = names[: page_size or PAGE_ITEMS]
    is_more = is_more or len(names) > len(shown)
    return TopicPage(tuple(found[name] for name in shown), shown[-1] if is_more else "")


def check_page(pattern: str, page_size: int) -> re.Pattern[str] | None:
    """The pattern, None for all names; what `fnmatch` makes of it does not backtrack over a star.
    Raises InvalidArgument."""
    if not 0 <= page_size <= PAGE_ITEMS_MAX:
        raise InvalidArgument(f"page_size is from 1 to {PAGE_ITEMS_MAX}")
    if not pattern:
        return None
    if len(pattern) > PATTERN_CHARACTERS:
        raise InvalidArgument(f"a pattern has at most {PATTERN_CHARACTERS} characters")
    return re.compile(fnmatch.translate(pattern))


def split_namespace(namespace: str) -> tuple[str, str]:
    """(tenant, namespace) of tenant/namespace; raises InvalidArgument."""
    tenant, separator, name = namespace.partition("/")
    if not separator:
        raise InvalidArgument(f"a namespace is written tenant/namespace, not {namespace!r}")
    check_name(tenant, "tenant")
    check_name(name, "namespace")
    return tenant, name
