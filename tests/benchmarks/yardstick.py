"""The yardstick, LiteLLM's proxy: its virtual environment, its configuration, its command."""

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.chat import Target

ENVIRONMENT = Path(__file__).parents[2] / ".venv-litellm"
_PYTHON = ENVIRONMENT / "bin" / "python"
_PROXY = ENVIRONMENT / "bin" / "litellm"
_CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: {base_url}
      api_key: {key}
litellm_settings:
  telemetry: false
"""


def install_litellm() -> str:
    """Install it where it is missing, away from Carpool's own packages; return its version."""
    if not _PROXY.exists():
        print("installing litellm[proxy] into .venv-litellm", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        pip = (str(_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        subprocess.run([*pip, "litellm[proxy]"], check=True)
    asked = "import importlib.metadata as m; print(m.version('litellm'))"
    version = subprocess.run(
        [str(_PYTHON), "-c", asked], check=True, capture_output=True, text=True
    )
    return version.stdout.strip()


def litellm_command(config: Path, port: int) -> tuple[str, ...]:
    """One process, as it starts by default and as Carpool's API is one."""
    return (str(_PROXY), "--config", str(config), "--host", "127.0.0.1", "--port", str(port))


def litellm_environment(key: str) -> dict[str, str]:
    """As its manual says for production, open to one key; and no price list from elsewhere."""
    return {
        "LITELLM_MASTER_KEY": key,
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }


def write_config(path: Path, provider: Target) -> Path:
    """One model, answered by the provider."""
    path.write_text(
        _CONFIG.format(model=provider.model, base_url=provider.base_url, key=provider.key)
    )
    return path
