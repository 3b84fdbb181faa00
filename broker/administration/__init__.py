"""Administration of topics on brokers: implements the port `tenants.topic_administration`.

    AdminService (gRPC) ─▶ RoutedAdministration ─▶ Routing ─▶ LocalAdministration   served here
                                    │                └──────▶ Peers ─▶ the owner's AdminService
                                    └▶ AdministeredCatalog: what needs no owner, but the metadata

Start reading at `routed`. Only `service` and `peers` know gRPC.
"""
