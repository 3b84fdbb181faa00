"""Tenants and their namespaces, and the policies under which topics are kept.

Guards that no policy value out of bounds is stored, and that one found in the metadata is an error
with the setting's name rather than a surprise in a broker. Start reading at `policies`, the one
table of settings with their defaults and bounds, then at `resolver`, which answers for a topic by
laying cluster, namespace and topic policies over each other, and at `administration`, which
changes them. What administration needs of topics it asks through the port `topic_administration`.
"""
