"""`carpool doctor`: looks at all that Carpool needs, and says what to do."""

from rich.console import Console

from carpool.settings import Settings
from cli import machine_findings, server_findings
from cli.connection import read_connection
from cli.finding import Finding


async def doctor(settings: Settings) -> bool:
    """Print all findings; whether all is well."""
    stored = read_connection(settings.directory)
    findings = [
        *machine_findings.installation(),
        *await server_findings.postgres(settings, stored),
        await server_findings.redis(settings, stored),
        *machine_findings.engines(settings),
        machine_findings.port(settings),
    ]
    console = Console(soft_wrap=True, highlight=False)
    for finding in findings:
        _print(console, finding)
    return all(finding.well for finding in findings)


def _print(console: Console, finding: Finding) -> None:
    console.print("[green]ok   [/]" if finding.well else "[bold red]WRONG[/]", end=" ")
    console.print(f"{finding.subject}: {finding.seen}", markup=False)
    if finding.advice is not None:
        console.print(f"      do: {finding.advice}", markup=False)
