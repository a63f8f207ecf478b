"""`carpool submit`: a file of prompts or requests goes in, a file of answers comes out."""

import asyncio
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from openai.types import Batch

from carpool.errors import CarpoolError
from cli.bulk.address import Address
from cli.bulk.dry_run import Report, conclude, dry_run
from cli.bulk.ending import INTERRUPTED, SUCCEEDED, exit_code, refusal
from cli.bulk.faults import BadInput, CannotGoOn
from cli.bulk.options import Options, resumed
from cli.bulk.partial import Partial, opened_partial
from cli.bulk.plan import Limits, Plan, make_plan
from cli.bulk.progress import Teller, teller
from cli.bulk.replacement import require_directory
from cli.bulk.results import write_results
from cli.bulk.rows import Kind
from cli.bulk.server import opened_server
from cli.bulk.source import Source, settled
from cli.bulk.state import Fingerprint, State, begun, fingerprint, load_state
from cli.bulk.submission import Submission


@dataclass(frozen=True, kw_only=True, slots=True)
class Paths:
    """The files of a submission."""

    input: Path
    output: Path

    @property
    def partial(self) -> Path:
        """Results as they come."""
        return self.output.with_name(self.output.name + ".partial")

    @property
    def state(self) -> Path:
        """How far it has come."""
        return self.output.with_name(self.output.name + ".state.json")


def find_paths(path: Path, output: Path | None) -> Paths:
    """``prompts.jsonl`` goes to ``prompts.results.jsonl`` unless told; raises BadInput."""
    if not path.is_file():
        raise BadInput(f"{path}: there is no such file")
    suffix = ".csv" if path.suffix.lower() == ".csv" else ".jsonl"
    paths = Paths(input=path, output=output or path.with_name(f"{path.stem}.results{suffix}"))
    if paths.output.is_dir() or paths.output.resolve() == path.resolve():
        raise BadInput(f"--output: {paths.output} is a directory, or the input file")
    require_directory(paths.output)
    return paths


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What was asked for."""

    paths: Paths
    options: Options
    """As given, without defaults."""
    address: Address
    limits: Limits
    watch: bool
    resume: bool
    dry_run: bool


def submit(wish: Wish) -> int:
    """Do it; the exit code. Raises CarpoolError, with a hint at what to do where work has begun."""
    if wish.dry_run and wish.resume:
        raise BadInput("--dry-run: it leaves nothing that could be resumed")
    with teller() as told:
        if wish.dry_run:
            return _dry_run(wish, told)
        with opened_partial(wish.paths.partial) as partial, _hints(wish.paths, told):
            return _submit(wish, told, partial)


def _submit(wish: Wish, told: Teller, partial: Partial) -> int:
    """Between the stretches that speak with the server nothing is awaited, so that Ctrl-C works."""
    paths = wish.paths
    now = fingerprint(paths.input)
    state = _stored(paths, now, resume=wish.resume)
    if state is None:
        source, plan = _planned(wish, told)
        state = begun(now, source.options, wish.limits, wish.address.base_url, plan)
        state.save(paths.state)
    elif state.exit_code is None:
        source, plan = _planned_again(wish, state)
    else:
        partial.cut(0)
        told.say(f"It is finished already; the results are in {paths.output}")
        return state.exit_code
    try:
        batches = asyncio.run(_work(wish, told, partial, source, state))
    except BadInput:
        if not any(part.batch_id for part in state.parts):
            paths.state.unlink()
        raise
    if not wish.watch:
        return _left_alone(paths, state, told)
    return _finished(paths, told, partial, source, plan, state, batches)


async def _work(
    wish: Wish, told: Teller, partial: Partial, source: Source, state: State
) -> list[Batch]:
    """What happens on the server; the ended batches, none where they are not to be watched."""
    async with opened_server(wish.address, told) as server:
        submission = Submission(
            server=server, told=told, source=source, state=state, state_path=wish.paths.state
        )
        await submission.send(resumed=wish.resume)
        return await submission.gather(partial) if wish.watch else []


def _stored(paths: Paths, now: Fingerprint, *, resume: bool) -> State | None:
    """The state to go on from; None for a new submission; raises BadInput for neither."""
    state = load_state(paths.state)
    over = state is not None and state.exit_code is not None
    if resume:
        if state is None:
            raise BadInput(f"--resume: there is no {paths.state}; leave --resume away to begin")
        if state.input != now:
            raise BadInput(
                f"--resume: {paths.input} is no longer the file that was submitted; put that one "
                "back, or submit this one with another --output"
            )
        return state
    if state is not None and not over:
        changed = "" if state.input == now else " (of another content of the input file)"
        raise BadInput(
            f"a submission to {paths.output} has begun{changed}: go on with it by --resume, or "
            f"choose another --output; to give it up, delete {paths.state}"
        )
    if paths.output.exists():
        raise BadInput(f"{paths.output} is there already: choose another --output, or move it away")
    paths.state.unlink(missing_ok=True)
    return None


def _planned(wish: Wish, told: Teller) -> tuple[Source, Plan]:
    kind, options = settled(wish.paths.input, wish.options)
    if kind is not Kind.REQUESTS and options.model is None:
        model = asyncio.run(only_model(wish.address, told))
        options = msgspec.structs.replace(options, model=model)
    source = Source(wish.paths.input, kind, options)
    return source, make_plan(source, wish.limits)


def _planned_again(wish: Wish, state: State) -> tuple[Source, Plan]:
    kind, options = settled(wish.paths.input, resumed(wish.options, state.options))
    source = Source(wish.paths.input, kind, options)
    plan = make_plan(source, state.limits)
    if [part.part for part in state.parts] != list(plan.parts):
        raise BadInput(f"{wish.paths.state} was written by another version of carpool")
    return source, plan


async def only_model(address: Address, told: Teller) -> str:
    """The model of a server that has one; raises BadInput where there is a choice."""
    async with opened_server(address, told) as server:
        models = await server.models()
    if len(models) != 1:
        known = ", ".join(models) or "none at the moment"
        raise BadInput(f"--model: say which; the server has {known}")
    return models[0]


def _finished(
    paths: Paths,
    told: Teller,
    partial: Partial,
    source: Source,
    plan: Plan,
    state: State,
    batches: Sequence[Batch],
) -> int:
    """Write the results; the exit code. Raises BadInput for lines that the server refused."""
    if fingerprint(paths.input) != state.input:
        raise CannotGoOn(f"{paths.input} has changed since it was submitted; put it back")
    refused = _refused(source, plan, batches)
    if refused is not None and all(batch.status == "failed" for batch in batches):
        paths.state.unlink()
        raise refused
    tally = write_results(paths.output, source, plan, partial)
    state.exit_code = exit_code(batches, tally)
    state.save(paths.state)
    partial.cut(0)
    told.say(
        f"{tally.succeeded:,} succeeded, {tally.failed:,} failed, {tally.unfinished:,} were not "
        f"finished; the results are in {paths.output}"
    )
    if refused is not None:
        raise refused
    return state.exit_code


def _refused(source: Source, plan: Plan, batches: Sequence[Batch]) -> BadInput | None:
    """What the server's validation has found in batches that failed."""
    if all(batch.status != "failed" for batch in batches):
        return None
    return refusal(
        source,
        (
            (before, (batch.errors and batch.errors.data) or [])
            for before, batch in zip(plan.before, batches, strict=True)
            if batch.status == "failed"
        ),
    )


def _left_alone(paths: Paths, state: State, told: Teller) -> int:
    for part in state.parts:
        print(part.batch_id)
    sys.stdout.flush()
    told.say(f"Gather the results by: {resume_command(paths)}")
    return SUCCEEDED


def resume_command(paths: Paths) -> str:
    """To be pasted into a shell."""
    words = ["carpool", "submit", str(paths.input), "--output", str(paths.output), "--resume"]
    return shlex.join(words)


@contextmanager
def _hints(paths: Paths, told: Teller) -> Iterator[None]:
    """Say how to go on, where there is something to go on with; an interrupt is a SystemExit."""
    try:
        yield
    except KeyboardInterrupt:
        if paths.state.exists():
            told.say(f"Interrupted; what was submitted goes on. Resume by: {resume_command(paths)}")
        else:
            told.say("Interrupted; nothing was submitted.")
        raise SystemExit(INTERRUPTED) from None
    except BadInput:
        raise
    except (CarpoolError, OSError) as error:
        hint = f"\nNothing is lost; resume by: {resume_command(paths)}"
        raise CannotGoOn(f"{error}{hint if paths.state.exists() else ''}") from error


def _dry_run(wish: Wish, told: Teller) -> int:
    source, plan = _planned(wish, told)

    async def ask() -> list[Report]:
        async with opened_server(wish.address, told) as server:
            return await dry_run(server, told, source, plan)

    return conclude(source, plan, asyncio.run(ask()))
