"""One frozen `Settings`, built once from the environment and one TOML file."""

import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal
from urllib.parse import urlsplit

import msgspec
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from carpool.errors import ConfigurationError, InvalidRequest
from carpool.price_settings import PriceSettings, twice_priced
from carpool.prices import ANY, PriceRow
from carpool.routing import Route, RouteError, check
from carpool.windows import parse_window

SIMULATED_MODEL = "simulated"
FILE_SCHEMES: Final = ("file", "s3", "gs", "az")
OPENAI_BACKGROUND_WINDOWS: Final = {"8h": 0.6, "2h": 0.7}
Tiers = dict[str, Annotated[float, Field(ge=0)]]
"""Completion windows, each with what it costs of the live price."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SimulatedSettings(_Frozen):
    """A backend that makes up deterministic text at a set pace."""

    kind: Literal["simulated"]
    own: ClassVar[bool] = True
    first_token_milliseconds: float = Field(default=200, ge=0)
    token_milliseconds: float = Field(default=20, ge=0)
    slots: int = Field(default=256, ge=1)


class VLLMSettings(_Frozen):
    """A vLLM engine in the worker's own process; ``args`` are those of ``vllm serve``."""

    kind: Literal["vllm"]
    own: ClassVar[bool] = True
    model: str
    served_model_name: str | None = None
    args: tuple[str, ...] = ()


class OpenAISettings(_Frozen):
    """Any OpenAI-compatible URL. Without ``models`` the provider's own list is taken.

    The key of the environment's ``OPENAI_API_KEY`` goes to OpenAI alone; another URL gets what
    ``api_key`` or the variable named by ``api_key_env`` holds.
    """

    kind: Literal["openai"]
    base_url: str | None = None
    api_key: SecretStr | None = None
    api_key_env: str | None = None
    concurrency: int = Field(default=256, ge=1)
    timeout_seconds: float = Field(default=600, gt=0)
    models: tuple[str, ...] | None = None
    own: bool = False
    """Whether it is the team's: its answers cost nothing but what a price of this backend says."""
    prompt_cache_key: bool | None = None
    """Whether chats that share a long prefix are sent with one; None: to OpenAI itself alone."""

    @property
    def key_variable(self) -> str | None:
        """Which variable of the environment holds the key; None where none is needed."""
        if self.api_key_env is None and self.base_url is None:
            return "OPENAI_API_KEY"
        return self.api_key_env

    @property
    def groups_prompts(self) -> bool:
        """Whether ``prompt_cache_key`` is set where a client set none."""
        return self.base_url is None if self.prompt_cache_key is None else self.prompt_cache_key


class OpenAIBatchSettings(OpenAISettings):
    """The patient ways of the same kind of URL, for the flex and batch classes.

    ``windows`` are the completion windows of its Batch API, ``background_windows`` those of its
    background responses, each with what it costs of the live price.
    """

    kind: Literal["openai_batch"]  # type: ignore[assignment]  # the tag alone differs
    windows: Tiers = Field({"24h": 0.5}, min_length=1)
    background_windows: Tiers | None = None
    """None: those of OpenAI (COMPAT section 5) that are not in ``windows``, at OpenAI alone."""
    max_lines: int = Field(default=50_000, ge=1)
    max_bytes: int = Field(default=200 * 1000**2, ge=1)
    max_enqueued_tokens: int | None = Field(default=None, ge=1)
    """Of all open provider batches of one model, estimated; None sets no limit."""
    max_background_responses: int = Field(default=5000, ge=1)
    """How many are open at once, of all workers; each is asked for some 40 times."""
    gather_seconds: float = Field(default=60, gt=0)
    """How long the first row waits for company."""
    poll_seconds: float = Field(default=60, gt=0)
    """How often the provider is asked how a batch stands."""
    live_seconds: float = Field(default=900, gt=0)
    """How long before its deadline a request is left to, or taken back for, live calls."""

    @property
    def responses_windows(self) -> dict[str, float]:
        """The windows that go as background responses, with their tiers."""
        if self.background_windows is not None:
            return self.background_windows
        offered = OPENAI_BACKGROUND_WINDOWS if self.base_url is None else {}
        return {window: tier for window, tier in offered.items() if window not in self.windows}

    @property
    def tiers(self) -> dict[str, float]:
        """All windows on offer, whichever way they go."""
        return {**self.windows, **self.responses_windows}

    @field_validator("windows", "background_windows")
    @classmethod
    def _check_windows(cls, windows: dict[str, float] | None) -> dict[str, float] | None:
        for window in windows or ():
            try:
                parse_window(window)
            except InvalidRequest as error:
                raise ValueError(error.message) from None
        return windows

    @model_validator(mode="after")
    def _check_ways(self) -> "OpenAIBatchSettings":
        both = self.windows.keys() & (self.background_windows or {}).keys()
        if both:
            raise ValueError(f"window '{min(both)}' stands in windows and in background_windows")
        return self


BackendSettings = Annotated[
    SimulatedSettings | VLLMSettings | OpenAISettings | OpenAIBatchSettings,
    Field(discriminator="kind"),
]


class ModelSettings(_Frozen):
    """A model name and its route: backends in their order, or legs with conditions, or an alias.

    ``backends`` is short for legs without conditions: the first that is up answers. ``upstream`` is
    the model's name at each backend that names none.
    """

    backends: tuple[str, ...] = ()
    legs: tuple[dict[str, Any], ...] = ()
    alias: str | None = None
    upstream: str | None = None
    cache_seconds: float | None = None

    @model_validator(mode="after")
    def _check(self) -> "ModelSettings":
        if sum(map(bool, (self.backends, self.legs, self.alias))) != 1:
            raise ValueError("expected one of backends, legs and alias")
        try:
            _ = self.route
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def route(self) -> Route:
        """The route; raises msgspec.ValidationError for an unknown condition and its like."""
        legs = self.legs or tuple({"backend": backend} for backend in self.backends)
        if self.upstream is not None:
            legs = tuple({"upstream": self.upstream} | leg for leg in legs)
        fields = {"legs": legs, "alias": self.alias, "cache_seconds": self.cache_seconds}
        return msgspec.convert({k: v for k, v in fields.items() if v is not None}, Route)


class _File(_Frozen):
    backends: dict[str, BackendSettings] = {}
    models: dict[str, ModelSettings] = {}
    prices: tuple[PriceSettings, ...] = ()


class Settings(BaseSettings):
    """Everything an operator can set; each field is also ``CARPOOL_<NAME>`` in the environment."""

    model_config = SettingsConfigDict(
        env_prefix="CARPOOL_", env_ignore_empty=True, frozen=True, extra="ignore"
    )

    data_dir: Path = Path("~/.carpool")
    config: Path | None = None
    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    files_url: str | None = None
    """Where files lie: ``file:///path``, ``s3://bucket/prefix``, ``gs://…`` or ``az://…``; None is
    a directory of ``data_dir``. Credentials are those of the environment."""
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    listen_fd: int | None = None
    """A socket that listens already, inherited from a supervisor."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(default=None, ge=0, le=65535)
    """Where a worker or a jobs process serves /metrics, /healthz and /readyz; None: nowhere. The
    API does on its own port. Of the processes of one `carpool up` each takes the next higher."""
    seat: str | None = None
    """Given by a supervisor that knows that the seat's last holder is dead."""

    max_body_bytes: int = Field(default=10_000_000, ge=1)
    max_file_bytes: int = Field(default=512 * 1024**2, ge=1)
    max_batch_file_bytes: int = Field(default=200 * 1024**2, ge=1)
    max_upload_bytes: int = Field(default=8 * 1024**3, ge=1)
    max_part_bytes: int = Field(default=64 * 1024**2, ge=1)
    max_batch_requests: int = Field(default=50_000, ge=1)
    max_batch_inputs: int = Field(default=50_000, ge=1)
    """Of embeddings, over all requests of a batch."""
    max_batch_errors: int = Field(default=100, ge=1)
    """How many errors of an invalid batch are reported."""
    max_enqueued_tokens: int | None = Field(default=None, ge=1)
    """Of a team's open batches of one model, estimated; None sets no limit."""
    max_attempts: int = Field(default=5, ge=1)
    heartbeat_seconds: float = Field(default=2, gt=0)
    health_seconds: float = Field(default=10, gt=0)
    """How often a run asks its backend whether it can answer."""
    lease_seconds: float = Field(default=15, gt=0)
    poll_seconds: float = Field(default=1, gt=0)
    grace_seconds: float = Field(default=130, ge=0)
    drain_seconds: float = Field(default=10, ge=0)
    stall_seconds: float = Field(default=30, gt=0)
    """How long a client may send nothing of its body, or take nothing of its stream."""
    stream_hold_seconds: float = Field(default=10, gt=0)
    stream_heartbeat_seconds: float = Field(default=15, gt=0)
    clean_seconds: float = Field(default=60, gt=0)
    """How often what nobody can read any more is removed from the file store."""
    database_timeout_seconds: float = Field(default=10, gt=0)
    redis_timeout_seconds: float = Field(default=2, gt=0)
    retention_days: int | None = Field(default=None, ge=1)
    """After how many days finished requests are dropped; None keeps them."""
    partition_days: int = Field(default=14, ge=1)
    log_json: bool = False

    vllm_model: str | None = None
    vllm_args: str = ""
    openai_api_key: SecretStr | None = Field(default=None, validation_alias="OPENAI_API_KEY")
    openai_base_url: str | None = Field(default=None, validation_alias="OPENAI_BASE_URL")
    simulated_first_token_ms: float = Field(default=200, ge=0)
    simulated_token_ms: float = Field(default=20, ge=0)
    simulated_slots: int = Field(default=256, ge=1)

    @field_validator("files_url")
    @classmethod
    def _check_files_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in FILE_SCHEMES:
            raise ValueError(f"expected a URL of {', '.join(FILE_SCHEMES)}")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("credentials and options belong in the environment, not in the URL")
        local = parts.scheme == "file"
        if bool(parts.netloc) == local or (local and not parts.path.startswith("/")):
            raise ValueError("expected file:///path, or a bucket's name behind the scheme")
        return url

    @cached_property
    def file(self) -> _File:
        """The TOML file, validated; empty where there is none."""
        if self.config is None:
            return _File()
        try:
            return _File.model_validate(tomllib.loads(self.config.read_text()))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"config: cannot read {self.config}: {error}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"config: {self.config} is not TOML: {error}") from error
        except ValidationError as error:
            raise ConfigurationError(f"config: {self.config}: {_reasons(error)}") from error

    @cached_property
    def backends(self) -> dict[str, BackendSettings]:
        """By name: those of the file, those that the environment asks for, or the simulation."""
        found: dict[str, BackendSettings] = dict(self.file.backends)
        if self.vllm_model is not None:
            found["vllm"] = VLLMSettings(
                kind="vllm", model=self.vllm_model, args=tuple(self.vllm_args.split())
            )
        if self.openai_api_key is not None:
            found["openai"] = OpenAISettings(
                kind="openai", api_key=self.openai_api_key, base_url=self.openai_base_url
            )
        if not found:
            found[SIMULATED_MODEL] = SimulatedSettings(
                kind="simulated",
                first_token_milliseconds=self.simulated_first_token_ms,
                token_milliseconds=self.simulated_token_ms,
                slots=self.simulated_slots,
            )
        return found

    @cached_property
    def models(self) -> dict[str, ModelSettings]:
        """By the name that clients use; an engine's own name where the file names none."""
        found = dict(self.file.models)
        for name, backend in self.backends.items():
            if any(leg.backend == name for model in found.values() for leg in model.route.legs):
                continue
            for model in _own_models(backend):
                found.setdefault(model, ModelSettings(backends=(name,)))
        routes = {model: settings.route for model, settings in found.items()}
        for model, route in routes.items():
            try:
                check(
                    model,
                    route,
                    backends=self.backends,
                    patient=patient_of(self.backends),
                    routes=routes,
                )
            except RouteError as error:
                short = found[model].backends and str(error.param).startswith("legs")
                where = "backends" if short else error.param
                what = str(error)
                raise ConfigurationError(
                    f"models.{model}.{where}: {what[0].lower()}{what[1:]}"
                ) from None
        return found

    @cached_property
    def prices(self) -> tuple[PriceRow, ...]:
        """The prices of the file."""
        rows = tuple(price.row for price in self.file.prices)
        for place, row in enumerate(rows):
            if row.backend != ANY and row.backend not in self.backends:
                raise ConfigurationError(
                    f"prices.{place}.backend: there is no backend '{row.backend}'"
                )
        double = twice_priced(rows)
        if double is not None:
            raise ConfigurationError(
                f"prices: '{double.model}' has two from {double.since:%Y-%m-%d} on"
            )
        return rows

    @property
    def directory(self) -> Path:
        """The data directory, absolute."""
        return self.data_dir.expanduser().absolute()


def patient_of(backends: Mapping[str, BackendSettings]) -> list[str]:
    """Those of the backends that gather what waits, and take their time."""
    return [name for name, kind in backends.items() if isinstance(kind, OpenAIBatchSettings)]


def served_name(backend: VLLMSettings) -> str:
    """The name of vLLM's model for clients: as set, else a path's last part, else the model."""
    if backend.served_model_name is not None:
        return backend.served_model_name
    path = Path(backend.model).expanduser()
    return path.name if path.is_dir() else backend.model


def _own_models(backend: BackendSettings) -> tuple[str, ...]:
    match backend:
        case SimulatedSettings():
            return (SIMULATED_MODEL,)
        case VLLMSettings():
            return (served_name(backend),)
        case OpenAISettings():
            return backend.models or ()


def load(**overrides: Any) -> Settings:
    """Settings from the environment, with the command line's own; raises ConfigurationError."""
    try:
        settings = Settings(**{k: v for k, v in overrides.items() if v is not None})
    except ValidationError as error:
        raise ConfigurationError(_reasons(error)) from error
    _ = settings.models, settings.prices
    return settings


def _reasons(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()
    )
