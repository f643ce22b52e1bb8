from pathlib import Path

import pytest
from pydantic import ValidationError

from serving import settings
from serving.settings import Settings, SettingsError


def test_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMESCOPE_PORT", "9000")
    monkeypatch.setenv("HOMESCOPE_ENGINE_URLS", "http://a:1, http://b:2")
    monkeypatch.setenv("HOMESCOPE_DATA", "~/state")
    loaded = settings.load()
    assert loaded.port == 9000
    assert loaded.engine_urls == ("http://a:1", "http://b:2")
    assert loaded.data == Path.home() / "state"


def test_an_empty_variable_is_as_if_it_were_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose files and unit files set variables to nothing: state in the working folder, or a server open to the
    whole network, is not what was meant."""
    for name in ("DATA", "HOST", "PORT", "MODEL", "ENGINE_URLS"):
        monkeypatch.setenv(f"HOMESCOPE_{name}", "")
    assert settings.load() == Settings()
    assert (settings.load().host, settings.load().model) == ("127.0.0.1", None)


def test_arguments_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMESCOPE_PORT", "9000")
    assert settings.load(port=9001).port == 9001


def test_an_unknown_name_is_named_with_the_nearest_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMESCOPE_PROT", "9000")
    with pytest.raises(SettingsError, match=r"HOMESCOPE_PROT is not a setting.*HOMESCOPE_PORT$"):
        settings.load()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HOMESCOPE_PORT", "http", "HOMESCOPE_PORT=http: input should be a valid integer"),
        ("HOMESCOPE_PORT", "70000", "HOMESCOPE_PORT=70000: input should be less than or equal to 65535"),
        ("HOMESCOPE_LOG_FORMAT", "xml", "HOMESCOPE_LOG_FORMAT=xml: input should be 'text' or 'json'"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        settings.load()
    assert str(raised.value).startswith(said)


def test_settings_cannot_drift_after_start() -> None:
    with pytest.raises(ValidationError):
        Settings().port = 1


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_aliases_are_served_beside_the_known_names() -> None:
    assert Settings(model_aliases=("ours",)).served_models[-1] == "ours"
    assert "qwen3-vl-30b" in Settings().served_models
