"""The `carpool` command. Each command is thin, and imports what it needs when it runs."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from carpool import __version__
from carpool.errors import CarpoolError, ConfigurationError

app = typer.Typer(
    name="carpool",
    help="A team's OpenAI-shaped requests, stored, queued and run together.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
keys_app = typer.Typer(name="keys", help="Make, list and revoke keys.", no_args_is_help=True)
app.add_typer(keys_app)

DataDir = Annotated[Path | None, typer.Option(help="Where data lie. [default: ~/.carpool]")]
ConfigFile = Annotated[Path | None, typer.Option(help="A TOML file of backends and models.")]
Host = Annotated[str | None, typer.Option(help="The address to listen on. [default: 127.0.0.1]")]
Port = Annotated[int | None, typer.Option(help="0 takes a free one. [default: 8000]")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"carpool {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def up(
    host: Host = None,
    port: Port = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    workers: Annotated[int, typer.Option(min=0, help="Workers for each backend.")] = 1,
) -> None:
    """Start everything on this machine: Postgres, Valkey, the API and the workers."""
    from carpool.settings import load
    from cli.up import up as run

    settings = load(host=host, port=port, data_dir=data_dir, config=config)
    run(settings, workers=workers)


@app.command()
def api(
    host: Host = None, port: Port = None, data_dir: DataDir = None, config: ConfigFile = None
) -> None:
    """Run an API process alone."""
    from api.server import serve
    from carpool.settings import load
    from cli.connection import connected

    serve(connected(load(host=host, port=port, data_dir=data_dir, config=config)))


@app.command()
def worker(
    backend: Annotated[str, typer.Option(help="Which of the configured backends to run.")],
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Run a worker process for one backend."""
    from carpool.settings import load
    from cli.connection import connected
    from workers.process import serve

    settings = load(data_dir=data_dir, config=config)
    if backend not in settings.backends:
        known = ", ".join(settings.backends)
        raise ConfigurationError(f"backend: there is no '{backend}'; there is {known}")
    raise typer.Exit(serve(connected(settings), backend))


@app.command()
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database to the newest schema."""
    from carpool.settings import load
    from cli.connection import connected
    from cli.opened_database import database_errors
    from db.migrate import migrate as run

    settings = connected(load(data_dir=data_dir), redis=False)
    assert settings.database_url is not None
    with database_errors():
        run(settings.database_url.get_secret_value())


@app.command()
def status(data_dir: DataDir = None) -> None:
    """Show what waits, what runs, and who serves."""
    from carpool.settings import load
    from cli.connection import connected
    from cli.status import status as show

    asyncio.run(show(connected(load(data_dir=data_dir), redis=False)))


@app.command()
def doctor(
    host: Host = None, port: Port = None, data_dir: DataDir = None, config: ConfigFile = None
) -> None:
    """Look at all that Carpool needs, and say what to do."""
    from carpool.settings import load
    from cli.doctor import doctor as look

    settings = load(host=host, port=port, data_dir=data_dir, config=config)
    raise typer.Exit(0 if asyncio.run(look(settings)) else 1)


@keys_app.command("create")
def create_key(
    team: Annotated[str, typer.Option(help="The team, made where it is new.")],
    name: Annotated[str, typer.Option(help="What the key is for.")],
    owner: Annotated[str | None, typer.Option(help="The person whose key it is.")] = None,
    admin: Annotated[bool, typer.Option(help="May administer Carpool.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print its secret, once."""
    from carpool.settings import load
    from cli import keys
    from cli.connection import connected

    settings = connected(load(data_dir=data_dir), redis=False)
    asyncio.run(keys.create(settings, team=team, name=name, owner=owner, admin=admin))


@keys_app.command("list")
def list_keys(
    team: Annotated[str | None, typer.Option(help="This team's alone.")] = None,
    data_dir: DataDir = None,
) -> None:
    """List keys; secrets are not stored."""
    from carpool.settings import load
    from cli import keys
    from cli.connection import connected

    asyncio.run(keys.show(connected(load(data_dir=data_dir), redis=False), team=team))


@keys_app.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="Its id, or the secret itself.")],
    data_dir: DataDir = None,
) -> None:
    """Revoke a key."""
    from carpool.settings import load
    from cli import keys
    from cli.connection import connected

    asyncio.run(keys.revoke(connected(load(data_dir=data_dir)), key))


def main() -> None:
    """The entry point; an operator's mistake is one line and the exit code 2."""
    try:
        app()
    except ConfigurationError as error:
        print(f"carpool: {error}", file=sys.stderr)
        sys.exit(2)
    except CarpoolError as error:
        print(f"carpool: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
