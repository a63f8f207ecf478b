"""Settings come from the environment and one file; a bad one names its key and never a secret."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from carpool.errors import ConfigurationError
from carpool.settings import (
    OpenAISettings,
    Settings,
    SimulatedSettings,
    VLLMSettings,
    load,
    served_name,
)

SECRET = "sk-do-not-show-4711"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing of the machine's own."""
    for name in tuple(os.environ):
        if name.startswith(("CARPOOL_", "OPENAI_")):
            monkeypatch.delenv(name)
    return monkeypatch


def refused(**overrides: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(**overrides)
    return str(caught.value)


def written(path: Path, text: str) -> Path:
    file = path / "carpool.toml"
    file.write_text(text)
    return file


def test_without_anything_there_is_the_simulation() -> None:
    settings = load()
    assert settings.backends == {
        "simulated": SimulatedSettings(
            kind="simulated", first_token_milliseconds=200, token_milliseconds=20, slots=256
        )
    }
    assert settings.models["simulated"].backends == ("simulated",)
    assert (settings.host, settings.port, settings.max_body_bytes) == (
        *("127.0.0.1", 8000),
        10_000_000,
    )


def test_the_environment_paces_the_simulation(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CARPOOL_SIMULATED_FIRST_TOKEN_MS", "0")
    environment.setenv("CARPOOL_SIMULATED_TOKEN_MS", "1.5")
    environment.setenv("CARPOOL_SIMULATED_SLOTS", "3")
    assert load().backends["simulated"] == SimulatedSettings(
        kind="simulated", first_token_milliseconds=0, token_milliseconds=1.5, slots=3
    )


def test_a_model_of_vllm_takes_the_simulations_place(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv("CARPOOL_VLLM_MODEL", str(tmp_path))
    environment.setenv("CARPOOL_VLLM_ARGS", "--dtype bfloat16")
    settings = load()
    assert settings.backends == {
        "vllm": VLLMSettings(kind="vllm", model=str(tmp_path), args=("--dtype", "bfloat16"))
    }
    assert list(settings.models) == [tmp_path.name]


def test_a_key_of_openai_takes_the_simulations_place(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OPENAI_API_KEY", SECRET)
    settings = load()
    backend = settings.backends["openai"]
    assert isinstance(backend, OpenAISettings)
    assert backend.api_key is not None
    assert backend.api_key.get_secret_value() == SECRET
    assert list(settings.backends) == ["openai"]


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "CARPOOL_VLLM_MODEL", "CARPOOL_DATABASE_URL"])
def test_what_is_set_to_nothing_is_not_set(environment: pytest.MonkeyPatch, name: str) -> None:
    """As a deployment does whose secret is not filled in."""
    environment.setenv(name, "")
    settings = load()
    assert list(settings.backends) == ["simulated"]
    assert settings.database_url is None


def test_the_command_line_goes_over_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CARPOOL_PORT", "9000")
    assert load().port == 9000
    assert load(port=None).port == 9000
    assert load(port=9001).port == 9001


def test_a_file_names_backends_and_models(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        [backends.fast]
        kind = "simulated"
        first_token_milliseconds = 1

        [backends.team]
        kind = "openai"
        base_url = "http://localhost:1/v1"

        [models."org/m:1"]
        backends = ["team", "fast"]
        upstream = "m"
        """,
    )
    settings = load(config=file)
    assert list(settings.backends) == ["fast", "team"]
    assert settings.models["org/m:1"].backends == ("team", "fast")
    assert settings.models["org/m:1"].upstream == "m"
    assert "simulated" not in settings.models


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        load().port = 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CARPOOL_PORT", "70000"),
        ("CARPOOL_PORT", "http"),
        ("CARPOOL_MAX_BODY_BYTES", "0"),
        ("CARPOOL_MAX_ATTEMPTS", "none"),
        ("CARPOOL_GRACE_SECONDS", "-1"),
        ("CARPOOL_HEARTBEAT_SECONDS", "0"),
        ("CARPOOL_SIMULATED_SLOTS", "0"),
        ("CARPOOL_LOG_JSON", "perhaps"),
    ],
)
def test_a_bad_value_in_the_environment_names_its_key(
    environment: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment.setenv(name, value)
    environment.setenv("OPENAI_API_KEY", SECRET)
    environment.setenv("CARPOOL_DATABASE_URL", f"postgresql://u:{SECRET}@h/d")
    message = refused()
    assert message.startswith(f"{name.removeprefix('CARPOOL_').lower()}: ")
    assert SECRET not in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("backends = 3", "backends"),
        ("[backends.a]\nkind = 'steam'", "backends.a"),
        ("[backends.a]\nslots = 1", "backends.a"),
        ("[backends.a]\nkind = 'simulated'\nslots = 0", "backends.a.simulated.slots"),
        ("[backends.a]\nkind = 'simulated'\nseats = 4", "backends.a.simulated.seats"),
        ("[backends.a]\nkind = 'vllm'", "backends.a.vllm.model"),
        ("[backends.a]\nkind = 'openai'\napi_key = ['{secret}']", "backends.a.openai.api_key"),
        ("[backends.a]\nkind = 'openai'\napi_keys = '{secret}'", "backends.a.openai.api_keys"),
        ("[backends.a]\nkind = 'openai'\napi_key = '{secret}'\nconcurrency = 0", "concurrency"),
        ("[models.m]\nbackends = []", "models.m"),
        ("[models.m]\nbackends = ['nowhere']", "models.m.backends"),
        ("api_key = '{secret}'", "api_key"),
        ("[backends.a]\nkind = 'openai'\napi_key = '{secret}", "config"),
        ("[backends.a\napi_key = '{secret}'", "config"),
    ],
)
def test_a_bad_file_names_its_key(tmp_path: Path, text: str, key: str) -> None:
    message = refused(config=written(tmp_path, text.replace("{secret}", SECRET)))
    assert key in message
    assert SECRET not in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    message = refused(config=tmp_path / "nowhere.toml")
    assert message.startswith("config: cannot read")
    assert "nowhere.toml" in message


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "carpool.toml"
    file.write_bytes(b"host = '\xff\xfe'")
    assert refused(config=file).startswith("config: ")


def test_a_secret_is_not_shown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OPENAI_API_KEY", SECRET)
    environment.setenv("CARPOOL_DATABASE_URL", f"postgresql://u:{SECRET}@h/d")
    environment.setenv("CARPOOL_REDIS_URL", f"redis://:{SECRET}@h")
    settings = load()
    assert SECRET not in repr(settings)
    assert SECRET not in repr(settings.backends)


@pytest.mark.parametrize(
    "url", ["file:///some/where", "file:///a%20b", "s3://bucket", "gs://bucket/path", "az://c/path"]
)
def test_the_url_of_the_files_is_taken(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("CARPOOL_FILES_URL", url)
    assert load().files_url == url


@pytest.mark.parametrize(
    "url",
    [
        SECRET,
        f"ftp://{SECRET}/a",
        f"s3://key:{SECRET}@bucket/a",
        f"s3://bucket/a?secret={SECRET}",
        f"s3://bucket/a#{SECRET}",
        f"s3://[{SECRET}/a",
        f"s3:///{SECRET}",
        "s3://",
        "file:",
        f"file:{SECRET}",
        f"file://{SECRET}/a",
        f"/{SECRET}",
    ],
)
def test_a_bad_url_of_the_files_names_its_key(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("CARPOOL_FILES_URL", url)
    message = refused()
    assert message.startswith("files_url: ")
    assert SECRET not in message


def test_a_data_directory_is_absolute(tmp_path: Path, environment: pytest.MonkeyPatch) -> None:
    environment.chdir(tmp_path)
    environment.setenv("HOME", str(tmp_path / "home"))
    assert Settings(data_dir=Path("here")).directory == tmp_path / "here"
    assert Settings(data_dir=Path("~/there")).directory == tmp_path / "home" / "there"


@pytest.mark.parametrize(
    ("model", "served", "name"),
    [("org/tiny", None, "org/tiny"), ("org/tiny", "team", "team"), ("here/tiny", None, "tiny")],
)
def test_the_name_of_vllms_model(
    tmp_path: Path,
    environment: pytest.MonkeyPatch,
    model: str,
    served: str | None,
    name: str,
) -> None:
    environment.chdir(tmp_path)
    (tmp_path / "here" / "tiny").mkdir(parents=True)
    settings = VLLMSettings(kind="vllm", model=model, served_model_name=served)
    assert served_name(settings) == name
