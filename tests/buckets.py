"""An S3 for tests: a real moto server on a free port of this machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

REGION = "us-east-1"
BUCKET = "carpool"


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """A bucket, what a stack needs in its environment to use it, and a way to look into it."""

    environment: dict[str, str]
    client: Any

    def keys(self) -> list[str]:
        """The keys of all objects."""
        found = self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return [item["Key"] for item in found]

    def unfinished(self) -> list[str]:
        """The keys of all objects that are being written in parts."""
        found = self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return [item["Key"] for item in found]


@contextmanager
def s3() -> Iterator[Bucket]:
    """A server with one empty bucket, which ends with the context."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
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
        client.create_bucket(Bucket=BUCKET)
        try:
            yield Bucket(environment=environment, client=client)
        finally:
            client.close()
    finally:
        server.stop()
