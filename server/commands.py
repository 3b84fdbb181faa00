"""The server commands of `magnetar`: what each takes; what each does is in `server.parts`.

Nothing heavy is imported before a command runs, so that `magnetar --help` answers at once.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from magnetar.cli.options import Json
from magnetar.errors import InvalidArgument
from server.logs import LogLevel, configure_logging

if TYPE_CHECKING:
    from magnetar.runtime.network import Address

LOOPBACK = "127.0.0.1"

MetadataUrl = Annotated[
    str,
    typer.Option(
        "--metadata",
        envvar="MAGNETAR_METADATA",
        help="zk://host:2181[,host:2181…][/chroot] or served://host:port",
    ),
]
DataFolder = Annotated[Path, typer.Option("--data", help="Folder; made if missing.")]
Host = Annotated[str, typer.Option("--host", help="Interface to listen on.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")]
AdminPort = Annotated[
    int,
    typer.Option(
        "--admin-port", min=0, max=65535, help="/healthz /readyz /metrics; 0 takes a free one."
    ),
]
Advertised = Annotated[
    str, typer.Option("--advertised", help="host:port under which others reach this one.")
]
SessionTimeout = Annotated[
    float, typer.Option("--session-timeout-s", min=0.5, help="Metadata session timeout.")
]
NodeId = Annotated[str, typer.Option("--id", help="Stable name of this node.")]
Level = Annotated[
    LogLevel,
    typer.Option(
        "--log-level", envvar="MAGNETAR_LOG_LEVEL", help="What goes to stderr, from here on."
    ),
]
Policies = Annotated[
    list[str] | None,
    typer.Option(
        "--policy", metavar="NAME=VALUE", help="A default of the cluster; may be repeated."
    ),
]

cluster_commands = typer.Typer(help="Prepare a cluster's metadata.", no_args_is_help=True)


def _begin(log_level: LogLevel) -> None:
    """Log from `log_level` on, and collect no garbage: what loading the rooms makes lives as long
    as the process. `server.process` collects again once it serves."""
    configure_logging(log_level)
    gc.disable()


def _advertised(text: str) -> Address | None:
    from magnetar.runtime.network import Address

    try:
        return Address.parse(text) if text else None
    except ValueError as error:
        raise InvalidArgument(str(error)) from error


def standalone(
    data: DataFolder,
    host: Host = LOOPBACK,
    port: Port = 6650,
    admin_port: AdminPort = 8080,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Run a whole cluster in one process. Every message is durable on this disk."""
    _begin(log_level)
    from magnetar.runtime.network import Address
    from server.parts import Standalone, serve_standalone
    from server.process import run

    settings = Standalone(data, Address(host, port), Address(host, admin_port))
    run(lambda: serve_standalone(settings))


def serve_metadata_command(
    data: DataFolder, host: Host = LOOPBACK, port: Port = 2180, admin_port: AdminPort = 0,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Serve metadata to one machine's processes. It takes the place of ZooKeeper."""
    _begin(log_level)
    from magnetar.runtime.network import Address
    from server.parts import serve_metadata
    from server.process import run

    run(lambda: serve_metadata(data, Address(host, port), Address(host, admin_port)))


def bookie(
    metadata: MetadataUrl,
    data: DataFolder,
    host: Host = LOOPBACK,
    port: Port = 3181,
    admin_port: AdminPort = 8000,
    id: NodeId = "",
    rack: Annotated[str, typer.Option(help="Copies are spread over racks.")] = "",
    advertised: Advertised = "",
    session_timeout_s: SessionTimeout = 6.0,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss",
            help="End limbo: what this node lost counts as never stored here. Logged for audit.",
        ),
    ] = False,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Run a storage node."""
    _begin(log_level)
    from magnetar.runtime.network import Address
    from server.parts import Bookie, serve_bookie
    from server.process import run

    settings = Bookie(
        metadata_url=metadata,
        session_timeout_s=session_timeout_s,
        data=data,
        listen=Address(host, port),
        admin_listen=Address(host, admin_port),
        advertised=_advertised(advertised),
        bookie_id=id,
        rack=rack,
        accept_loss=accept_loss,
    )
    run(lambda: serve_bookie(settings))


def broker(
    metadata: MetadataUrl,
    host: Host = LOOPBACK,
    port: Port = 6650,
    admin_port: AdminPort = 8080,
    id: NodeId = "",
    advertised: Advertised = "",
    session_timeout_s: SessionTimeout = 6.0,
    log_level: Level = LogLevel.INFO,
) -> None:
    """Run a broker. It keeps nothing on disk: start and stop as many as you need."""
    _begin(log_level)
    from magnetar.runtime.network import Address
    from server.parts import Broker, serve_broker
    from server.process import run

    settings = Broker(
        metadata_url=metadata,
        session_timeout_s=session_timeout_s,
        listen=Address(host, port),
        admin_listen=Address(host, admin_port),
        advertised=_advertised(advertised),
        broker_id=id,
    )
    run(lambda: serve_broker(settings))


@cluster_commands.command("init")
def initialize(
    metadata: MetadataUrl, policy: Policies = None, json: Json = False
) -> None:
    """Make the cluster's records. Run again, it changes nothing but the policies named."""
    import asyncio

    from magnetar.cli.printing import as_json, record
    from server.parts import initialize_metadata

    cluster_id, policies = asyncio.run(initialize_metadata(metadata, policy or []))
    made = {"cluster": cluster_id, **policies}
    as_json(made) if json else record(made)


@cluster_commands.callback()
def _cluster() -> None:
    """Prepare a cluster's metadata."""


def register(app: typer.Typer) -> None:
    """Called by the command line through the entry point group `magnetar.commands`."""
    app.command("standalone")(standalone)
    app.command("metadata")(serve_metadata_command)
    app.command("bookie")(bookie)
    app.command("broker")(broker)
    app.add_typer(cluster_commands, name="cluster")
