"""`python -m tests.double --port 0` serves, and prints the double's URL as its first line."""

import argparse
import os

import uvloop

from tests.double.server import serve


def main() -> None:
    parser = argparse.ArgumentParser(description="A provider that keeps OpenAI's rules.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--name", default="double", help="stands in every text that it answers")
    parser.add_argument("--leash", action="store_true", help="end when stdin is closed")
    given = parser.parse_args()
    uvloop.run(serve(given.name, given.port, leash=given.leash))
    os._exit(0)  # what hangs is not waited for


if __name__ == "__main__":
    main()
