"""A Carpool whose models are served by the simulation, and by a provider, live or patiently."""

from tests.stack import MODEL

PATH = "/v1/chat/completions"
CLOUD = "cloudy"
"""The model that the provider answers live."""
PATIENT = "patient"
"""The model that it answers by its Batch API."""
UPSTREAM = "gpt-6-luna"
"""What both are there."""


def cloud(url: str, key: str) -> str:
    """The configuration, with the provider's address and our key there."""
    return f"""
[backends.simulated]
kind = "simulated"
first_token_milliseconds = 0
token_milliseconds = 0

[backends.cloud]
kind = "openai"
base_url = "{url}"
api_key = "{key}"
models = ["{UPSTREAM}"]

[backends.later]
kind = "openai_batch"
base_url = "{url}"
api_key = "{key}"
models = ["{UPSTREAM}"]
gather_seconds = 0.1
poll_seconds = 0.1

[models.{MODEL}]
backends = ["simulated"]

[models.{CLOUD}]
backends = ["cloud"]
upstream = "{UPSTREAM}"

[models.{PATIENT}]
backends = ["later"]
upstream = "{UPSTREAM}"
"""
