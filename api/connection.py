"""The connection below a request: of a client that takes nothing, it is cut off.

To close it in order would be to wait until the client has taken what was written.
"""

import socket
import struct
from typing import Final

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

ABORT: Final = "carpool.abort"


class Connection(HttpToolsProtocol):
    """Uvicorn's, which tells a request's scope how it is cut off."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {"abort": self._abort}}

    def _abort(self) -> None:
        # Else the kernel goes on to offer what it holds.
        self.transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        self.transport.abort()


def cut_off(scope: Scope) -> None:
    """Drop the request's connection with all that was not taken; another server's is left."""
    extension = scope.get("extensions", {}).get(ABORT)
    if extension is not None:
        extension["abort"]()
