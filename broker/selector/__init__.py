"""Which messages a consumer wants: tags and property expressions, decided at the broker.

Guards two things: text from a client is parsed within named limits and refused with the place of
the mistake, and deciding about a message never raises and never takes longer than the size of
the expression allows. Start reading at `message_filter`, then `expression`.
"""

from broker.selector.lexer import FilterSyntaxError
from broker.selector.message_filter import MessageFilter, parse_filter

__all__ = ["FilterSyntaxError", "MessageFilter", "parse_filter"]
