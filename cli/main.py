"""The `carpool` command. Each command is thin, and imports what it needs when it runs."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from carpool import __version__
from carpool.errors import CarpoolError, ConfigurationError
from cli.commands import batches, keys, prices, routes, workers
from cli.commands.options import ConfigFile, DataDir, Host, Port

app = typer.Typer(
    name="carpool",
    help="A team's OpenAI-shaped requests, stored, queued and run together.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(keys.app)
app.add_typer(routes.app)
app.add_typer(batches.app)
app.add_typer(prices.app)
app.add_typer(workers.app)

SUBMIT_HELP = (
    "Submit a file of prompts or requests as batches, and gather the results.\n\n"
    "FILE is in OpenAI's batch format, and is sent as it is; or each of its rows is a prompt: the "
    "field `prompt` or `text` (or the only one) of a JSONL object or CSV row, a JSON string, a "
    "line of text. OUTPUT has the rows in their order, each with custom_id, answer, error and "
    "usage; of a file in OpenAI's format, the lines of its batches.\n\n"
    "What has come so far is in OUTPUT.partial, and what --resume needs in OUTPUT.state.json; "
    "--resume takes the other options from there.\n\n"
    "The server is that of OPENAI_BASE_URL, with OPENAI_API_KEY; else that of the local "
    "`carpool up`."
)
BENCH_HELP = (
    "Send the same requests to two or more models, and report how each of them does.\n\n"
    "Name your own model first: the verdict is whether it keeps up with the others. They take "
    "turns, each with the set concurrency and nothing beside it, after a warm-up that does not "
    "count. The requests are made up, or those of a file: JSONL of chat bodies or in OpenAI's "
    "batch format, or prompts as for `carpool submit`.\n\n"
    "The report is a table, and in the output directory report.html, which needs no network, and "
    "report.json with all that was measured. The server is that of OPENAI_BASE_URL, with "
    "OPENAI_API_KEY; else that of the local `carpool up`."
)
BENCH_EXIT_CODES = (
    "Exit codes: 0 all succeeded. 1 it cannot go on: no connection, a refused key, a model that "
    "answers nothing. 2 wrong use or bad input. 3 finished, but some requests failed. "
    "130 interrupted: the report is of what was done by then."
)
EXIT_CODES = (
    "Exit codes: 0 all succeeded (with --no-watch: are submitted; with --dry-run: would be "
    "accepted). 1 it cannot go on: no connection, a refused key, an error of the server. 2 wrong "
    "use or bad input, told by its lines. 3 finished, but some requests failed. 4 cancelled or "
    "expired before all was done. 130 interrupted: the batches go on, and --resume gathers their "
    "results."
)


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
def jobs(data_dir: DataDir = None, config: ConfigFile = None) -> None:
    """Run a process that moves batches on and cleans up; any number may run."""
    from carpool.settings import load
    from cli.connection import connected
    from workers.jobs.process import serve

    raise typer.Exit(serve(connected(load(data_dir=data_dir, config=config))))


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
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Live, until Ctrl-C.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    """Show what waits, what runs, who serves, and what is wrong."""
    from carpool.settings import load
    from cli.connection import connected
    from cli.status import status as show

    settings = connected(load(data_dir=data_dir, config=config), redis=False)
    with suppress(KeyboardInterrupt):
        asyncio.run(show(settings, watch=watch))


@app.command()
def doctor(
    host: Host = None, port: Port = None, data_dir: DataDir = None, config: ConfigFile = None
) -> None:
    """Look at all that Carpool needs, and say what to do."""
    from carpool.settings import load
    from cli.doctor import doctor as look

    settings = load(host=host, port=port, data_dir=data_dir, config=config)
    raise typer.Exit(0 if asyncio.run(look(settings)) else 1)


@app.command()
def savings(
    team: Annotated[str | None, typer.Option(help="This team's alone.")] = None,
    since: Annotated[str | None, typer.Option(help="From this day on, in UTC: 2026-11-01.")] = None,
    until: Annotated[str | None, typer.Option(help="The last day.")] = None,
    by: Annotated[
        Literal["model", "team", "backend", "day"], typer.Option(help="A line for each.")
    ] = "model",
    data_dir: DataDir = None,
) -> None:
    """Show what requests cost, what they would have cost, and what saved how much."""
    from carpool.settings import load
    from cli import savings
    from cli.connection import connected
    from db.savings import GroupBy

    settings = connected(load(data_dir=data_dir), redis=False)
    asyncio.run(savings.show(settings, team=team, since=since, until=until, group_by=GroupBy(by)))


@app.command(help=SUBMIT_HELP, epilog=EXIT_CODES)
def submit(
    file: Annotated[Path, typer.Argument(help="A .jsonl, .csv or .txt of prompts or requests.")],
    model: Annotated[str | None, typer.Option(help="Default: the only one there is.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Default: /v1/chat/completions.")] = None,
    window: Annotated[str | None, typer.Option(help="30m, 2h, 7d, …; default: 24h.")] = None,
    output: Annotated[Path | None, typer.Option(help="Default: FILE.results.jsonl.")] = None,
    watch: Annotated[bool, typer.Option(help="Wait for the results and gather them.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and estimate alone.")] = False,
    template: Annotated[str | None, typer.Option(help="The prompt: 'Translate: {text}'.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message for each prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Of each answer.")] = None,
    column: Annotated[str | None, typer.Option(help="The field that is the prompt.")] = None,
    id_column: Annotated[str | None, typer.Option(help="The field that is the custom_id.")] = None,
    priority: Annotated[int | None, typer.Option(min=-100, max=100, help="High is first.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="key=value, more than once.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after a kill.")] = False,
    data_dir: DataDir = None,
) -> None:
    from carpool.settings import load
    from cli.bulk.address import find_address
    from cli.bulk.options import Options, parse_metadata
    from cli.bulk.plan import Limits
    from cli.bulk.submit import Wish, find_paths
    from cli.bulk.submit import submit as run

    settings = load(data_dir=data_dir)
    options = Options(
        model=model,
        endpoint=endpoint,
        window=window,
        template=template,
        system=system,
        max_tokens=max_tokens,
        column=column,
        id_column=id_column,
        priority=priority,
        metadata=parse_metadata(metadata or ()),
    )
    wish = Wish(
        paths=find_paths(file, output),
        options=options,
        address=find_address(settings),
        limits=Limits(requests=settings.max_batch_requests, bytes=settings.max_batch_file_bytes),
        watch=watch,
        resume=resume,
        dry_run=dry_run,
    )
    raise typer.Exit(run(wish))


@app.command(help=BENCH_HELP, epilog=BENCH_EXIT_CODES)
def bench(
    models: Annotated[str, typer.Option(help="OWN,OTHER,…: names that the server knows.")],
    requests: Annotated[int | None, typer.Option(help="Default: 200, or a file's.")] = None,
    concurrency: Annotated[int, typer.Option(help="Requests at a time.")] = 8,
    input: Annotated[  # noqa: A002 - an option's name
        Path | None, typer.Option(help="A .jsonl, .csv or .txt of requests or prompts.")
    ] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Default: bench-DATE-TIME.")] = None,
    prompt_tokens: Annotated[
        int | None, typer.Option(help="Of each made-up prompt, about. Default: 256.")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Of each answer to a prompt. Default for made-up ones: 128.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the made-up prompts. Default: 0.")] = None,
    price: Annotated[
        list[str] | None, typer.Option(help="MODEL=in/out, in dollars for a million tokens.")
    ] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
) -> None:
    from carpool.settings import load
    from cli.bench.bench import bench as run
    from cli.bench.options import Options, find_wish

    options = Options(
        models=models,
        requests=requests,
        concurrency=concurrency,
        input=input,
        output_dir=output_dir,
        prompt_tokens=prompt_tokens,
        max_tokens=max_tokens,
        seed=seed,
        prices=tuple(price or ()),
    )
    raise typer.Exit(run(find_wish(options, load(data_dir=data_dir, config=config))))


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
