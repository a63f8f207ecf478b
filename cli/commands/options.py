"""Options that many commands have."""

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[Path | None, typer.Option(help="Where data lie. [default: ~/.carpool]")]
ConfigFile = Annotated[Path | None, typer.Option(help="A TOML file of backends and models.")]
Host = Annotated[str | None, typer.Option(help="The address to listen on. [default: 127.0.0.1]")]
Port = Annotated[int | None, typer.Option(help="0 takes a free one. [default: 8000]")]
