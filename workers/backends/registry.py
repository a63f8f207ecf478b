"""From an operator's settings to the backend that they mean."""

from carpool.settings import BackendSettings, OpenAISettings, SimulatedSettings, VLLMSettings
from workers.backends.protocol import Backend


def make(name: str, settings: BackendSettings) -> Backend:
    """The backend, not started. Its module is imported here: a worker loads only what it serves."""
    match settings:
        case SimulatedSettings():
            from workers.backends.simulated import SimulatedBackend

            return SimulatedBackend(name, settings)
        case OpenAISettings():
            from workers.backends.openai import OpenAIBackend

            return OpenAIBackend(name, settings)
        case VLLMSettings():
            from workers.backends.vllm import VLLMBackend

            return VLLMBackend(name, settings)
