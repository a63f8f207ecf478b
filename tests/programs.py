"""Programs that tests drive beside Python's: `python -m tests.programs` installs what is missing.

They come from Debian's packages, by root. Elsewhere it says what is to be installed.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = {
    "chromium": "chromium",
    "kubectl": "kubernetes-client",
    "promtool": "prometheus",
    "redis-server": "redis-server",
    "/usr/lib/postgresql/15/bin/postgres": "postgresql-15",
}
"""The package of each program; a path where it does not lie in PATH."""
INSTALL_SECONDS = 600
POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian asks it before it starts a service; 101 is no."""


def main() -> int:
    """Install what is missing; the exit code."""
    missing = sorted({PACKAGES[name] for name in PACKAGES if shutil.which(name) is None})
    if not missing:
        return 0
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"The tests need these Debian packages: {' '.join(missing)}", file=sys.stderr)
        return 1
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *missing]
    with no_services():
        for command in (["apt-get", "update", "--quiet"], install):
            subprocess.run(command, check=True, env=environment, timeout=INSTALL_SECONDS)
    return 0


@contextmanager
def no_services() -> Iterator[None]:
    """While packages are installed, none of their services is started."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


if __name__ == "__main__":
    sys.exit(main())
