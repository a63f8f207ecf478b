"""From an operator's settings to the backend that they mean."""

from carpool.settings import BackendSettings, OpenAISettings, SimulatedSettings, VLLMSettings
from db.database import Database
from workers.backends.protocol import Backend


def make(name: str, settings: BackendSettings, database: Database) -> Backend:
    """The backend, not started; in the database it shares its limits with other workers.

    Its module is imported here: a worker loads only what it serves.
    """
    match settings:
        case SimulatedSettings():
            from workers.backends.simulated import SimulatedBackend

            return SimulatedBackend(name, settings)
        case OpenAISettings():
            from workers.backends.openai import OpenAIBackend

            return OpenAIBackend(name, settings, database)
        case VLLMSettings():
            from workers.backends.vllm import VLLMBackend

            return VLLMBackend(name, settings)
