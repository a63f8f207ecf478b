"""The port that the API is to listen on."""

import socket

from carpool.errors import ConfigurationError

BACKLOG = 4096


def free_port(host: str, port: int) -> int:
    """The port itself, or a free one for 0; raises ConfigurationError where it is not to be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise _refused(host, port, error) from error


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens, for `up` to keep and the API to inherit; 0 takes a free port.

    While the API is started again, connections wait in its backlog. A stock client has given up
    1.5 s after a death, had they been refused.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(BACKLOG)
        except OSError:
            made.close()
            raise
    except OSError as error:
        raise _refused(host, port, error) from error
    return made


def _refused(host: str, port: int, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"port: cannot listen on {host} port {port}: {error.strerror}; end the program that does, "
        "or choose another by --port (0 takes a free one)"
    )


def base_url(host: str, port: int) -> str:
    """What a client on this machine uses, for any address that a server listens on."""
    local = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(host)  # noqa: S104 - read
    name = local or (f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}/v1"
