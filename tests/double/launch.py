"""The double in a process of its own, and the hand that turns its clock.

    async with Double(name="openai") as double:          # starts it, ends it
        client = AsyncOpenAI(base_url=double.url, api_key="sk-any")
        await double.fault("/v1/chat/completions", status=429, times=3)
        await double.advance(60)
        seen = await double.seen()

    with serving() as url:                               # one process for many tests
        async with Double(url=url) as double: ...        # attaches, and makes it fresh

The double's clock stands still until `advance` or `auto`; batches, rate limits and the expiry of
files go by it alone. It knows chat completions, completions, embeddings, models, files, batches and
responses (texts and function calls; in the background, with the completion windows).
Where COMPAT.md is silent: a batch cancelled while validating has no files; the lines that an
expired or cancelled batch leaves count as failed; a file over its bytes is a 413 at the upload,
one over its lines fails the batch with `too_many_tasks`; a line that a live call would refuse with
a 400 is a 400 in the error file; a response that is not done in its window goes on for ever, and
one that is cancelled or deleted before it is done costs nothing.

The control API, all on the same port, JSON both ways:

    Double(*, name="double", port=0, url=None)
      .url                        http://127.0.0.1:PORT/v1
      .name                       stands in every text that it answers
      .port                       another may be started there after `kill`
      .pid                        of the process, where this started it
      .text(body)                 the text it answers a chat or completion with (choice 0)
      .vector(body)               the first vector it answers an embedding with
      .kill()                     end the process at once; connections are refused from then on
      .reset()                    all as at the start, the clock and the process excepted
      .configure(**changes)       settings.py; those not named stay as they are
      .advance(seconds) -> now    turn the clock on
      .auto(factor=1.0)           let it run by itself, so many times as fast; 0 stops it
      .now()
      .fault(path, ...) -> number         faults.Fault, of requests
      .line_fault(holding, ...) -> number faults.LineFault, of lines of batches
      .batch_fault(...) -> number         faults.BatchFault, of batches
      .response_fault(holding, ...) -> number faults.ResponseFault, of responses
      .clear(number=None)         one fault, or all of them
      .release()                  let all that hangs go on
      .seen() -> record.Seen      calls with headers and bodies, batches, responses, computed lines
      .forget()                   of `seen`, calls and computed lines; nothing else
      .until(path, method="*", count=1)   return once so many calls came
      .until_held(count=1)        return once so many requests hang
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
import msgspec

from tests.double import answers
from tests.double.faults import AnyFault, BatchFault, Fault, LineFault, ResponseFault
from tests.double.record import Seen
from tests.double.settings import Changes

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
NAME = "double"
END_SECONDS = 10.0
WORDS: dict[type[AnyFault], str] = {
    Fault: "fault",
    LineFault: "line_fault",
    BatchFault: "batch_fault",
    ResponseFault: "response_fault",
}
PATIENCE_SECONDS = 60.0
"""For one word with the double, the waiting ones included."""


@contextmanager
def serving(*, name: str = NAME, port: int = 0) -> Iterator[str]:
    """The URL, which ends in /v1, of a double that lives as long as the context."""
    with _process(name, port) as (_, url):
        yield url


@contextmanager
def _process(name: str, port: int) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    # It ends when its stdin closes: not even a killed test leaves one behind.
    command = [sys.executable, "-m", "tests.double", "--name", name, "--port", str(port), "--leash"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, "the double did not start"
            yield process, url
        finally:
            process.kill()
            process.wait(END_SECONDS)


class Double:
    """One running double; ``async with`` starts it, or attaches to the one at ``url``."""

    def __init__(self, *, name: str = NAME, port: int = 0, url: str | None = None) -> None:
        self.name = name
        self.url = url or ""
        self._port = port
        self._process: subprocess.Popen[str] | None = None
        self._ends = ExitStack()
        self._http = httpx.AsyncClient(timeout=PATIENCE_SECONDS, verify=False, trust_env=False)

    async def __aenter__(self) -> Self:
        if not self.url:
            started = _process(self.name, self._port)
            self._process, self.url = await asyncio.to_thread(self._ends.enter_context, started)
        self.name = (await self._tell("reset"))["name"]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._http.aclose()
        self._ends.close()

    @property
    def port(self) -> int:
        port = httpx.URL(self.url).port
        assert port is not None, self.url
        return port

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was started by another"
        return self._process.pid

    def text(self, body: Json) -> str:
        """What the double answers to the body of a chat or a completion, as its first choice."""
        return answers.text(self.name, body)

    def vector(self, body: Json) -> list[float]:
        """What the double answers to the body of an embedding, as its first vector."""
        return answers.vectors(self.name, body)[0]

    async def kill(self) -> None:
        """End the process at once."""
        assert self._process is not None, "it was started by another"
        self._process.kill()
        await asyncio.to_thread(self._process.wait, END_SECONDS)

    async def reset(self) -> None:
        """Settings, files, batches, faults, records and caches as at the start; the clock stops."""
        await self._tell("reset")

    async def configure(self, **changes: Unpack[Changes]) -> None:
        """Change some of `Settings`; a new rate limit starts with full buckets."""
        await self._tell("settings", dict(changes))

    async def advance(self, seconds: float) -> float:
        """Turn the clock on; all that falls due has happened when this returns the new time."""
        return float((await self._tell("advance", {"seconds": seconds}))["now"])

    async def auto(self, factor: float = 1.0) -> None:
        """Let the clock run, so many of its seconds to a real one; 0 stops it."""
        await self._tell("auto", {"factor": factor})

    async def now(self) -> float:
        """The clock's time, in seconds since the epoch."""
        return await self.advance(0)

    async def fault(
        self,
        path: str = "/v1/*",
        *,
        method: str = "*",
        holding: str = "",
        times: int | None = 1,
        status: int | None = None,
        body: str | Json | None = None,
        headers: Mapping[str, str] | None = None,
        reset: bool = False,
        cut_after_chunks: int | None = None,
        cut_after_bytes: int | None = None,
        hang: bool = False,
        hang_after_chunks: int | None = None,
        delay_seconds: float = 0.0,
    ) -> int:
        """Of the next requests that match ``path``, ``method`` and ``holding``; its number.

        ``status`` and ``body``: this is answered and nothing done; a status without a body has
        OpenAI's error body. ``reset``: the connection is reset and nothing done.
        ``cut_after_*``: the request is done, and the connection closed after so many chunks
        (events of a stream, 64 KiB of a file, else the whole) or bytes of the answer; at 0 not
        even its status arrives; with ``reset`` too, it is reset instead of closed. ``hang``:
        nothing is done until `release`. ``hang_after_chunks``: done, and the answer held until
        `release` after so many chunks. ``delay_seconds`` are real ones, before anything is done.
        """
        text = body if body is None or isinstance(body, str) else msgspec.json.encode(body).decode()
        return await self._add(
            Fault(
                path=path,
                method=method,
                holding=holding,
                times=times,
                status=status,
                body=text,
                headers=dict(headers or {}),
                reset=reset,
                cut_after_chunks=cut_after_chunks,
                cut_after_bytes=cut_after_bytes,
                hang=hang,
                hang_after_chunks=hang_after_chunks,
                delay_seconds=delay_seconds,
            )
        )

    async def line_fault(
        self,
        holding: str,
        *,
        times: int | None = 1,
        status: int | None = None,
        body: str | Json | None = None,
        code: str | None = None,
        text: str | None = None,
        missing: bool = False,
        doubled: bool = False,
    ) -> int:
        """Of the next lines of batches that hold a text, in custom_id or body; its number.

        ``status``: it stands in the error file with this HTTP status and body (OpenAI's error by
        default). ``code``: there without a response, with this error code. ``text``: this stands
        in the output file in its place. ``missing``: it stands in no file. ``doubled``: twice.
        """
        made = body if body is None or isinstance(body, str) else msgspec.json.encode(body).decode()
        return await self._add(
            LineFault(
                holding=holding,
                times=times,
                status=status,
                body=made,
                code=code,
                text=text,
                missing=missing,
                doubled=doubled,
            )
        )

    async def batch_fault(
        self,
        *,
        holding: str = "",
        times: int | None = 1,
        code: str | None = None,
        message: str = "The batch was refused.",
        stall_after: int | None = None,
        unknown_lines: int = 0,
    ) -> int:
        """Of the next batches created whose creating body holds a text; its number.

        ``code`` and ``message``: it fails at validation. ``stall_after``: it computes so many
        lines and no more, until it expires or is cancelled. ``unknown_lines``: so many lines that
        nobody asked for stand in its output.
        """
        return await self._add(
            BatchFault(
                holding=holding,
                times=times,
                code=code,
                message=message,
                stall_after=stall_after,
                unknown_lines=unknown_lines,
            )
        )

    async def response_fault(
        self,
        holding: str,
        *,
        times: int | None = 1,
        code: str | None = None,
        message: str = "The response failed.",
        incomplete: str | None = None,
        stall: bool = False,
    ) -> int:
        """Of the next responses created whose creating body holds a text; its number.

        ``code`` and ``message``: it fails. ``incomplete``: it is cut for this reason. ``stall``: it
        goes on until it is cancelled.
        """
        return await self._add(
            ResponseFault(
                holding=holding,
                times=times,
                code=code,
                message=message,
                incomplete=incomplete,
                stall=stall,
            )
        )

    async def clear(self, number: int | None = None) -> None:
        """One fault, or all; what hangs already goes on hanging."""
        await self._tell("clear", {"number": number})

    async def release(self) -> None:
        """Let every request that hangs now go on; those of faults still in force hang again."""
        await self._tell("release")

    async def seen(self) -> Seen:
        """All that was asked since the start, or since `forget`."""
        return msgspec.json.decode(await self._ask("seen", {}), type=Seen)

    async def forget(self) -> None:
        """Calls and computed lines; batches and files stay."""
        await self._tell("forget")

    async def until(self, path: str, method: str = "*", count: int = 1) -> None:
        """Return once so many calls came; httpx.ReadTimeout after 30 seconds."""
        await self._tell("until", {"path": path, "method": method, "count": count})

    async def until_held(self, count: int = 1) -> None:
        """Return once so many requests hang; httpx.ReadTimeout after 30 seconds."""
        await self._tell("until_held", {"count": count})

    async def _add(self, fault: AnyFault) -> int:
        kind = WORDS[type(fault)]
        return int((await self._tell(kind, msgspec.to_builtins(fault)))["number"])

    async def _tell(self, what: str, body: Json | None = None) -> Json:
        return msgspec.json.decode(await self._ask(what, body or {}), type=dict[str, Any])

    async def _ask(self, what: str, body: Json) -> bytes:
        url = self.url.removesuffix("/v1") + f"/__control__/{what}"
        answer = await self._http.post(url, json=body)
        assert answer.status_code == 200, answer.text
        return answer.content
