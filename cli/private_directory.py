"""Directories that only their owner may enter, and where a Unix socket's path fits."""

import hashlib
import os
import tempfile
from pathlib import Path

from carpool.errors import ConfigurationError
from cli.account import Account, let_through

SOCKET_PATH_BYTES = 103
"""What every system takes: 107 on Linux, 103 on macOS."""


def make_private(directory: Path, account: Account | None = None) -> None:
    """Make a directory for the account (by default our own); refuse one that is another's."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    allowed = {os.geteuid()} if account is None else {os.geteuid(), account.uid}
    if directory.is_symlink() or directory.lstat().st_uid not in allowed:
        raise ConfigurationError(f"{directory} belongs to someone else: remove it")
    directory.chmod(0o700)
    if account is not None:
        os.chown(directory, account.uid, account.gid)
        let_through(directory)


def socket_directory(directory: Path, file: str) -> Path:
    """Where to put a socket: the directory itself, or a short one where its path is too long.

    The same at every start. The short one is to be made by :func:`make_private`.
    """
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    name = f"carpool-{os.geteuid()}-{digest}"
    candidates = [directory, Path(tempfile.gettempdir()) / name]
    fitting = [path for path in candidates if len(os.fsencode(path / file)) <= SOCKET_PATH_BYTES]
    return fitting[0] if fitting else Path("/tmp") / name  # noqa: S108 - private
