"""The connection below a request: of a client that takes nothing, it is cut off.

To close it in order would be to wait until the client has taken what was written.
"""

from typing import Final

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ABORT: Final = "carpool.abort"


class Connection(HttpToolsProtocol):
    """Uvicorn's, which tells a request's scope how it is cut off."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {"abort": self.transport.abort}}


def cut_off(scope: Scope) -> None:
    """Drop the request's connection with all that was not taken; another server's is left."""
    extension = scope.get("extensions", {}).get(ABORT)
    if extension is not None:
        extension["abort"]()
