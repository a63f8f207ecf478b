"""An S3 for tests: a real moto server on a port of its own."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from tests.ports import HOST, reserved

REGION = "us-east-1"
_numbers = count()


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """A bucket, what a stack needs in its environment to use it, and a way to look into it."""

    name: str
    environment: dict[str, str]
    client: Any
    port: int
    _serving: ExitStack

    def end(self) -> None:
        """Let nobody reach the server any more; it keeps what it has."""
        self._serving.close()

    def begin(self) -> None:
        """Serve again, where it was."""
        self._serving.enter_context(_server(self.port))

    def url(self, path: str = "") -> str:
        """The URL of a path in it, for ``files_url``."""
        return f"s3://{self.name}/{path}"

    def keys(self) -> list[str]:
        """The keys of all objects."""
        found = self.client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return [item["Key"] for item in found]

    def unfinished(self) -> list[str]:
        """The keys of all objects that are being written in parts."""
        found = self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])
        return [item["Key"] for item in found]


@contextmanager
def s3() -> Iterator[Bucket]:
    """A server with one empty bucket, which ends with the context.

    What moto holds is one for a process: a bucket of its own keeps each from the others.
    """
    with reserved() as port, ExitStack() as serving:
        serving.enter_context(_server(port))
        environment = {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "something",
            "AWS_REGION": REGION,
        }
        client = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            region_name=REGION,
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        )
        name = f"carpool-{next(_numbers)}"
        client.create_bucket(Bucket=name)
        try:
            yield Bucket(
                name=name, environment=environment, client=client, port=port, _serving=serving
            )
        finally:
            client.close()


@contextmanager
def _server(port: int) -> Iterator[None]:
    server = ThreadedMotoServer(HOST, port, verbose=False)
    server.start()
    try:
        yield
    finally:
        server.stop()
