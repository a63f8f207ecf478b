"""Postgres's account gets no more than it needs: to pass through, and to use the binaries."""

import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.account import let_through, let_use


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="carpool-"))
    yield path
    shutil.rmtree(path)


def test_the_way_is_opened_to_pass_through_alone(directory: Path) -> None:
    inner = directory / "private" / "data"
    inner.mkdir(parents=True, mode=0o700)
    inner.parent.chmod(0o700)
    let_through(inner)
    assert mode(inner.parent) == 0o701
    assert mode(directory) == 0o701
    assert mode(inner) == 0o700


def test_what_a_strict_umask_installed_can_be_run(directory: Path) -> None:
    program, table = directory / "postgres", directory / "timezone"
    for file, owners in ((program, 0o700), (table, 0o600)):
        file.write_text("")
        file.chmod(owners)
    let_use(directory)
    assert mode(program) == 0o705
    assert mode(table) == 0o604
    assert mode(directory) == 0o705


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
