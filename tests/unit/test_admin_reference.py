"""The admin API's reference names each of its routes with its methods, and no others."""

import re
from pathlib import Path

from api.app import ROUTES

REFERENCE = Path(__file__).parents[2] / "deploy" / "ADMIN.md"
PREFIX = "/admin/v1/"


def test_each_route_is_documented_and_each_documented_route_exists() -> None:
    served = {
        (method, path.replace(":path}", "}"))
        for route in ROUTES
        if (path := route.path).startswith(PREFIX)
        for method in (route.methods or set()) - {"HEAD"}
    }

    assert documented() == served


def documented() -> set[tuple[str, str]]:
    """Methods and paths of the table's first column; further ones of a cell share its beginning."""
    found = set()
    for line in REFERENCE.read_text().splitlines():
        cell = re.match(r"\| (`.*?`) \|", line.replace("\\|", "/"))
        method = path = ""
        for code in re.findall(r"`([^`]*)`", cell[1] if cell else ""):
            words = code.split()
            method = words[0] if words[0].isupper() else method
            path = words[-1].split("?")[0] if "/" in words[-1] else path
            found.add((method, path))
    return found
