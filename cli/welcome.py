"""What `carpool up` prints when it is ready."""

import json
import shlex

from rich.console import Console
from rich.panel import Panel

from carpool.settings import Settings, SimulatedSettings
from cli.connection import FILE_NAME, Connection

SIMULATED_WARNING = (
    "No model is configured: every answer is SIMULATED text.\n"
    "For a real one set CARPOOL_VLLM_MODEL or OPENAI_API_KEY, or use --config."
)

CURL = """\
curl {base_url}/chat/completions \\
  -H "Authorization: Bearer {key}" \\
  -H "Content-Type: application/json" \\
  -d {body}"""

PYTHON = """\
from openai import OpenAI

client = OpenAI(base_url={base_url}, api_key={key})
answer = client.chat.completions.create(
    model={model}, messages=[{{"role": "user", "content": "Hello"}}]
)
print(answer.choices[0].message.content)"""


def welcome(
    console: Console, settings: Settings, connection: Connection, model: str, seconds: float
) -> None:
    """Print the addresses, the team's key and two examples to paste; the admin's is in the file."""
    console.print(f"\n[bold green]Carpool is ready[/] after {seconds:.1f} s.\n")
    for name, value in (
        ("Base URL", connection.base_url),
        ("API key", connection.api_key),
        ("Dashboard", connection.base_url.removesuffix("/v1") + "/dashboard"),
        ("In a file", str(settings.directory / FILE_NAME)),
    ):
        _plain(console, f"  {name:<10} {value}")
    if simulated_only(settings):
        console.print()
        console.print(Panel(SIMULATED_WARNING, style="bold yellow", expand=False))
    for title, example in (
        ("curl", _curl(connection, model)),
        ("Python", _python(connection, model)),
    ):
        console.print(f"\n[bold]{title}[/]")
        _plain(console, example)
    console.print("\nCtrl-C ends it.\n")
    console.file.flush()


def simulated_only(settings: Settings) -> bool:
    """Whether no backend is a real one."""
    return all(isinstance(backend, SimulatedSettings) for backend in settings.backends.values())


def _curl(connection: Connection, model: str) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    return CURL.format(
        base_url=connection.base_url, key=connection.api_key, body=shlex.quote(json.dumps(body))
    )


def _python(connection: Connection, model: str) -> str:
    return PYTHON.format(
        base_url=json.dumps(connection.base_url),
        key=json.dumps(connection.api_key),
        model=json.dumps(model),
    )


def _plain(console: Console, text: str) -> None:
    """Without wrapping, colours or markup, so that it can be pasted."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)
