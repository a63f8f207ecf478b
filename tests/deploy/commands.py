"""What the files of `deploy/` say of the code: its commands, its variables, its addresses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import typer.main
from starlette.routing import Match
from typer.core import TyperGroup

from api.app import ROUTES
from carpool.settings import Settings, load
from cli.main import app

FOREIGN: Final = {
    "AWS_ACCESS_KEY_ID": "the file store",
    "AWS_SECRET_ACCESS_KEY": "the file store",
    "HF_HOME": "vLLM",
    "HF_TOKEN": "vLLM",
    "NVIDIA_DRIVER_CAPABILITIES": "the container toolkit",
    "NVIDIA_VISIBLE_DEVICES": "the container toolkit",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "traces",
    "OTEL_EXPORTER_OTLP_HEADERS": "traces",
    "OTEL_TRACES_SAMPLER": "traces",
    "OTEL_TRACES_SAMPLER_ARG": "traces",
    "PATH": "the shell",
    "VLLM_NO_USAGE_STATS": "vLLM",
}
"""Variables of Carpool's processes that are not its own settings, and who reads them."""
FIGURES: Final = ("/healthz", "/metrics", "/readyz")
"""What jobs and workers answer on the port of their metrics."""


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """The values of a `carpool` command's options.

    Raises LookupError where there is no such command, and typer's own errors for its options.
    """
    command: Any = typer.main.get_command(app)
    context = command.make_context("carpool", [], resilient_parsing=True)
    left = list(arguments)
    while isinstance(command, TyperGroup):
        name = left.pop(0)
        command = command.get_command(context, name)
        if command is None:
            raise LookupError(f"there is no command '{name}'")
        group = isinstance(command, TyperGroup)
        context = command.make_context(
            name, [] if group else left, parent=context, resilient_parsing=group
        )
    found: dict[str, Any] = context.params
    return found


def variables() -> set[str]:
    """All variables that configure Carpool."""
    return {
        str(field.validation_alias or f"CARPOOL_{name.upper()}")
        for name, field in Settings.model_fields.items()
    }


def unknown(names: Sequence[str] | set[str]) -> set[str]:
    """Those of the variables that neither Carpool nor what it runs reads."""
    return set(names) - variables() - set(FOREIGN)


def backends(config: Path) -> set[str]:
    """The backends of a configuration, which must be valid."""
    return set(load(config=config).backends)


def served(path: str) -> bool:
    """Whether the API answers GET requests for a path."""
    scope = {"type": "http", "method": "GET", "path": path, "headers": []}
    return any(route.matches(scope)[0] is Match.FULL for route in ROUTES)
