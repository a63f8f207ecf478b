"""The dashboard's files, read once, with what a browser needs to keep them.

A page names its files under a version, the hash of all of them, so that a new Carpool's page never
runs with a file that the browser kept from the one before.
"""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.metadata import version
from importlib.resources import files
from typing import Final

INDEX: Final = "index.html"
MEDIA_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
VERSION_LENGTH: Final = 16
PLOTLY_FILE: Final = "package_data/plotly.min.js"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asset:
    """A file as it is served; ``packed`` is the same by gzip."""

    content: bytes
    packed: bytes
    media_type: str
    tag: str
    """Its ETag: a weak one, for it is that of the packed bytes too."""


@cache
def assets() -> Mapping[str, Asset]:
    """Every file by its name; the index names the others under `assets_version`."""
    contents = dict(_contents())
    contents[INDEX] = _filled(contents[INDEX].decode(), sorted(contents)).encode()
    return {name: _asset(name, content) for name, content in contents.items()}


@cache
def assets_version() -> str:
    """The hash of all files as they lie in the package, and of plotly's version."""
    found = hashlib.sha256(plotly_version().encode())
    for name, content in sorted(_contents().items()):
        found.update(b"%b\0%d\0%b" % (name.encode(), len(content), content))
    return found.hexdigest()[:VERSION_LENGTH]


@cache
def plotly_script() -> Asset:
    """The script inside the Python package ``plotly``: 5 MB, of which gzip leaves 1.5; blocks."""
    return _asset("plotly.js", files("plotly").joinpath(PLOTLY_FILE).read_bytes())


@cache
def plotly_version() -> str:
    """Of the Python package, which tells its script's."""
    return version("plotly")


@cache
def _contents() -> Mapping[str, bytes]:
    folder = files("api.dashboard").joinpath("static")
    return {file.name: file.read_bytes() for file in folder.iterdir() if _served(file.name)}


def _served(name: str) -> bool:
    return name.rpartition(".")[2] in MEDIA_TYPES


def _filled(index: str, names: list[str]) -> str:
    """The index with its versions, and with all modules named, so that none waits for another."""
    base = f"dashboard/{assets_version()}"
    modules = "\n".join(
        f'    <link rel="modulepreload" href="{base}/{escape(name)}">'
        for name in names
        if name.endswith(".js") and name != "theme.js"
    )
    return (
        index.replace("{{modules}}", modules.lstrip())
        .replace("{{base}}", base)
        .replace("{{plotly}}", f"dashboard/plotly.js?v={plotly_version()}")
    )


def _asset(name: str, content: bytes) -> Asset:
    return Asset(
        content=content,
        packed=gzip.compress(content, mtime=0),
        media_type=MEDIA_TYPES[name.rpartition(".")[2]],
        tag=f'W/"{hashlib.sha256(content).hexdigest()[:32]}"',
    )
