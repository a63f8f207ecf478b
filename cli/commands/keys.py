"""`carpool keys`: the teams' keys."""

import asyncio
from typing import Annotated

import typer

from cli.commands.options import DataDir

app = typer.Typer(name="keys", help="Make, list and revoke keys.", no_args_is_help=True)


@app.command("create")
def create_key(
    team: Annotated[str, typer.Option(help="The team, made where it is new.")],
    name: Annotated[str, typer.Option(help="What the key is for.")],
    owner: Annotated[str | None, typer.Option(help="The person whose key it is.")] = None,
    admin: Annotated[bool, typer.Option(help="May administer Carpool.")] = False,
    bodies: Annotated[
        bool, typer.Option("--bodies", help="With --admin: sees prompts and answers of all teams.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print its secret, once."""
    from carpool.settings import load
    from cli import keys
    from cli.connection import connected

    settings = connected(load(data_dir=data_dir), redis=False)
    asyncio.run(
        keys.create(settings, team=team, name=name, owner=owner, admin=admin, bodies=bodies)
    )


@app.command("list")
def list_keys(
    team: Annotated[str | None, typer.Option(help="This team's alone.")] = None,
    data_dir: DataDir = None,
) -> None:
    """List keys; secrets are not stored."""
    from carpool.settings import load
    from cli import keys
    from cli.connection import connected

    asyncio.run(keys.show(connected(load(data_dir=data_dir), redis=False), team=team))


@app.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="Its id, or the secret itself.")],
    data_dir: DataDir = None,
) -> None:
    """Revoke a key."""
    from carpool.settings import load
    from cli import keys
    from cli.connection import connected

    asyncio.run(keys.revoke(connected(load(data_dir=data_dir)), key))
