"""`carpool up` keeps its files in a bucket when told to, and nothing of them on its disk."""

import asyncio
from typing import Any

import pytest

from tests.batches import Batches, jsonl, lines
from tests.buckets import s3
from tests.stack import eventually, stack_in_temporary_directory

PREFIX = "some/team"
LARGE = b"0123456789" * 2_000_000


async def test_files_and_a_batch_go_through_a_bucket() -> None:
    with s3() as bucket:
        environment = bucket.environment | {"CARPOOL_FILES_URL": bucket.url(PREFIX)}
        with stack_in_temporary_directory(environment) as stack:
            async with stack.http() as http:
                batches = Batches(http)
                large = await batches.upload(LARGE, "user_data")
                batch = await batches.run(lines(20))
                assert batch["status"] == "completed"
                output, error = await batches.proven(batch, [f"r{n}" for n in range(20)])
                assert (len(output), len(error)) == (20, 0)
                names = (large, batch["input_file_id"], batch["output_file_id"])
                assert sorted(bucket.keys()) == sorted(
                    f"{PREFIX}/files/{name.removeprefix('file-')}" for name in names
                )
                got = await http.get(f"/files/{large}/content", headers={"range": "bytes=5-16"})
                assert (got.status_code, got.content) == (206, LARGE[5:17])
                assert (await http.get(f"/files/{large}/content")).content == LARGE
            assert not (stack.directory / "files").exists()
        assert not bucket.unfinished()


async def test_a_bucket_that_is_away_is_an_error_to_try_again() -> None:
    with s3() as bucket:
        environment = bucket.environment | {"CARPOOL_FILES_URL": bucket.url()}
        with stack_in_temporary_directory(environment) as stack:
            async with stack.http() as http:
                file = await Batches(http).upload(b"any", "user_data")
                bucket.end()
                form: dict[str, Any] = {"data": {"purpose": "evals"}, "files": {"file": b"any"}}
                answers = await asyncio.gather(
                    http.get(f"/files/{file}/content"), http.post("/files", **form)
                )
                for answer in answers:
                    assert answer.status_code == 503
                    assert answer.json()["error"]["code"] == "service_unavailable"
                    assert answer.headers["x-should-retry"] == "true"
                [listed] = (await http.get("/files")).json()["data"]
                assert listed["id"] == file
                bucket.begin()
                assert (await http.get(f"/files/{file}/content")).content == b"any"
            assert "Traceback" not in stack.output()


async def test_a_batch_waits_for_a_bucket_that_is_away() -> None:
    with s3() as bucket:
        environment = bucket.environment | {"CARPOOL_FILES_URL": bucket.url()}
        with stack_in_temporary_directory(environment) as stack:
            async with stack.http() as http:
                batches = Batches(http)
                file = await batches.upload(jsonl(lines(3)))
                bucket.end()
                batch = await batches.of_file(file)

                async def failed() -> bool:
                    return "job_failed" in stack.output()

                await eventually(failed)
                assert (await batches.get(batch["id"]))["status"] == "validating"
                bucket.begin()
                batch = await batches.ended(batch["id"])
                assert batch["status"] == "completed"
                await batches.proven(batch, ["r0", "r1", "r2"])


def test_a_url_without_a_bucket_ends_the_start() -> None:
    environment = {"CARPOOL_FILES_URL": "s3://someone:secret@"}
    with (
        pytest.raises(AssertionError, match="files_url: ") as caught,
        stack_in_temporary_directory(environment),
    ):
        pass
    assert "secret" not in str(caught.value)


def test_a_store_without_its_account_ends_the_start() -> None:
    """Said once, by `up` itself, and not by each service again and again."""
    environment = {"CARPOOL_FILES_URL": "az://container"}
    with (
        pytest.raises(AssertionError, match="files_url: ") as caught,
        stack_in_temporary_directory(environment),
    ):
        pass
    assert str(caught.value).count("files_url: ") == 1
