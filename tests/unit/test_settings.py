"""Settings are read once, completely, and a wrong one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from featureflow.errors import SettingsError
from featureflow.settings import EMBEDDED, FILE, Settings, duration_us, load, mask, misspelt


def write(folder: Path, text: str) -> Path:
    (folder / FILE).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("FEATUREFLOW_SERVE_PORT", "65536"),
        ("FEATUREFLOW_SERVE_PORT", "-1"),
        ("FEATUREFLOW_INGEST_METRICS_PORT", "70000"),
        ("FEATUREFLOW_SERVE_WORKERS", "0"),
        ("FEATUREFLOW_LOG_PARTITIONS", "0"),
        ("FEATUREFLOW_LOG_PARTITIONS", "1025"),
        ("FEATUREFLOW_CLOCK_SHIFT_US", str(2**53)),
        ("FEATUREFLOW_CLOCK_SHIFT_US", str(-(2**53))),
        ("FEATUREFLOW_CLOCK_SHIFT_US", "9" * 20),
    ],
)
def test_a_number_that_cannot_be_is_refused_where_it_is_read(tmp_path: Path, variable: str, text: str) -> None:
    section, _, key = variable.removeprefix("FEATUREFLOW_").lower().partition("_")
    with pytest.raises(SettingsError, match=rf"{section}\.{key}"):
        load(tmp_path, {variable: text})


@pytest.mark.parametrize(
    "key", ["serve.host", "ingest.metrics_host", "history_writer.metrics_host", "project.definitions", "project.data", "models.path"]
)
def test_nothing_is_no_host_and_no_path(tmp_path: Path, key: str) -> None:
    """A variable that is set to nothing would have the port open to every network."""
    variable = f"FEATUREFLOW_{key.replace('.', '_').upper()}"
    with pytest.raises(SettingsError, match=rf"the environment variable {variable}: .* length >= 1 - at `\$\.{key}`"):
        load(tmp_path, {variable: ""})


def test_without_a_file_everything_runs_embedded(tmp_path: Path) -> None:
    settings = load(tmp_path, {})
    assert {settings.log.url, settings.online.url, settings.history.url} == {EMBEDDED}
    assert settings.serve.host == "127.0.0.1"


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    write(tmp_path, '[project]\nname = "shop"\n[log]\nurl = "kafka://a:9092"\npartitions = 3\n')
    settings = load(tmp_path, {"FEATUREFLOW_LOG_URL": "kafka://b:9092", "FEATUREFLOW_SERVE_PORT": "9000"})
    assert settings.log.url == "kafka://b:9092"
    assert settings.log.partitions == 3
    assert settings.serve.port == 9000


def test_relative_paths_start_where_the_file_stands(tmp_path: Path) -> None:
    assert load(tmp_path, {}).path("models") == (tmp_path / "models").resolve()


def test_other_variables_with_the_prefix_are_left_alone(tmp_path: Path) -> None:
    assert load(tmp_path, {"FEATUREFLOW_SERVICES_DIR": "/x", "FEATUREFLOW_KAFKA_PORT": "1"}) == load(tmp_path, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[log]\nurll = "x"\n', r"'urll' is no key of \[log\] \(did you mean 'url'\?\)\. Keys: "),
        ("[logs]\n", r"\[logs\] is no section \(did you mean 'log'\?\)\. Sections: "),
        ("log = 3\n", r"log must be a section"),
        ('[serve]\nport = "many"\n', r"Expected `int`"),
        ("[serve\n", "not valid TOML"),
        ('folder = "x"\n', r"\[folder\] is no section"),
        ("[folder]\nx = 1\n", r"\[folder\] is no section"),
        ('[online]\nstale_after = "soon"\n', r'online.stale_after = .soon. is no duration.*"30s"'),
        ('[online]\nstale_after = "4s"\n', r'online.stale_after = .4s. is too short.*"5s" or more'),
        ('[watch]\nwebhook = "hooks.example.com"\n', r"watch.webhook = 'hooks.example.com' is no address to post to; write https://host/path"),
        ('[watch]\nwait = "6s"\n', r"watch.wait = '6s' is longer than 5s"),
        ('[watch]\nwait = "long"\n', r"watch.wait = 'long' is no duration"),
    ],
)
def test_a_wrong_setting_is_named_with_what_may_stand_there(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load(write(tmp_path, text), {})


def test_a_variable_that_is_nearly_a_setting_is_named_and_others_are_not() -> None:
    found = {"FEATUREFLOW_SERVE_PROT": "1", "FEATUREFLOW_SERVE_PORT": "1", "FEATUREFLOW_SERVE_PORT_8080_TCP_ADDR": "10.0.0.1", "HOME": "/"}
    found |= {"FEATUREFLOW_SERVICES_DIR": "/x", "FEATUREFLOW_KAFKA_PORT": "1", "FEATUREFLOW_LOGS_URL": "kafka://a:1"}
    assert misspelt(found) == {"FEATUREFLOW_SERVE_PROT": "FEATUREFLOW_SERVE_PORT", "FEATUREFLOW_LOGS_URL": "FEATUREFLOW_LOG_URL"}


def test_features_may_be_called_stale_after_five_seconds(tmp_path: Path) -> None:
    assert load(write(tmp_path, '[project]\nname = "shop"\n[online]\nstale_after = "5s"\n'), {}).online.stale_after == "5s"


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    settings = load(write(tmp_path, '[project]\nname = "shop"\n[history]\nurl = "mysql+pymysql://me:secret@db/ff"\n'), {})
    assert "secret" not in repr(settings)
    assert mask("redis://:secret@h:1/0") == "redis://:***@h:1/0"
    assert settings.history.url.count("secret") == 1


def test_settings_cannot_change_once_they_are_read() -> None:
    with pytest.raises(AttributeError):
        Settings().folder = "elsewhere"  # type: ignore[misc]  # that it is refused is the point


@pytest.mark.parametrize(("text", "us"), [("250ms", 250_000), ("30s", 30_000_000), ("5m", 300_000_000), ("1d", 86_400_000_000)])
def test_durations_are_whole_numbers_with_a_unit(text: str, us: int) -> None:
    assert duration_us(text, "x.y") == us


@pytest.mark.parametrize("name", ["Shop", "my shop", "-shop", "a.b", "a{b}", "s" * 65])
def test_a_project_name_is_made_of_what_topics_and_keys_may_hold(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="is no project's name; write up to 64 lower-case letters"):
        load(tmp_path, {"FEATUREFLOW_PROJECT_NAME": name})


@pytest.mark.parametrize("section", ["log", "online", "history"])
def test_on_servers_that_others_may_use_a_project_has_a_name(tmp_path: Path, section: str) -> None:
    url = {"log": "kafka://h:9092", "online": "redis://h:6379/0", "history": "mysql+pymysql://u@h/db"}[section]
    with pytest.raises(SettingsError, match=rf"{section}\.url may be shared with other projects, and this one has no name(.|\n)*name = "):
        load(write(tmp_path, f'[{section}]\nurl = "{url}"\n'), {})
    assert load(tmp_path, {"FEATUREFLOW_PROJECT_NAME": "shop"}).name == "shop"


def test_on_servers_of_its_own_a_project_needs_no_name(tmp_path: Path) -> None:
    assert load(write(tmp_path, '[history]\nurl = "sqlite:///events.db"\n'), {}).name == "default"


@pytest.mark.parametrize("section", ["log", "online"])
@pytest.mark.parametrize("url", ["redis://h:6379/x", "rediss://h/1/2", "redis://h/-1"])
def test_a_redis_database_is_a_number_and_never_guessed(tmp_path: Path, section: str, url: str) -> None:
    with pytest.raises(SettingsError, match=rf"{section}\.url.* ends in the number of a database, such as /0; it ends in '/"):
        load(tmp_path, {"FEATUREFLOW_PROJECT_NAME": "shop", f"FEATUREFLOW_{section.upper()}_URL": url})
    for good in ("redis://h", "redis://h/", "redis://:p@h:1/15", "rediss://h/0?ssl_cert_reqs=none", "unix:///a/b.sock?db=2"):
        load(tmp_path, {"FEATUREFLOW_PROJECT_NAME": "shop", f"FEATUREFLOW_{section.upper()}_URL": good})


def test_secrets_among_the_options_are_never_shown() -> None:
    url = "kafka://h:1?sasl_plain_username=me&sasl_plain_password=p%40ss&ssl_password=x&Token=t&client_secret=s&ssl_keyfile=/k&acks=all"
    assert mask(url) == (
        "kafka://h:1?sasl_plain_username=me&sasl_plain_password=***&ssl_password=***&Token=***&client_secret=***&ssl_keyfile=***&acks=all"
    )
    assert mask("redis://:p@h/0?password=q") == "redis://:***@h/0?password=***"
    assert mask("redis://h/0") == "redis://h/0"
    assert mask("no url") == "no url"


@pytest.mark.parametrize(
    "url", ["redis://:s3/cret@h:6379/0", "redis://me:s3?cret@h:6379/0", "rediss://:s3#cret@h/0", "redis://:s3cret@h:66000/0"]
)
@pytest.mark.parametrize("section", ["log", "online"])
def test_a_password_that_is_not_encoded_is_never_shown_as_a_port(tmp_path: Path, section: str, url: str) -> None:
    variable = f"FEATUREFLOW_{section.upper()}_URL"
    with pytest.raises(SettingsError, match=rf"{section}\.url .* a number up to 65535; .* as %2F") as caught:
        load(tmp_path, {"FEATUREFLOW_PROJECT_NAME": "shop", variable: url})
    assert "s3" not in str(caught.value)
    assert "cret" not in str(caught.value)


def test_an_at_sign_among_the_options_makes_no_password_of_the_servers() -> None:
    url = "kafka://a:9092,b:9092?sasl_plain_username=me@corp"
    assert mask(url) == url


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("FEATUREFLOW_SERVE_PORT", "many"),
        ("FEATUREFLOW_ONLINE_STALE_AFTER", "soon"),
        ("FEATUREFLOW_ONLINE_STALE_AFTER", "4999ms"),
        ("FEATUREFLOW_PROJECT_NAME", "No Name"),
        ("FEATUREFLOW_LOG_URL", "redis://h/x"),
        ("FEATUREFLOW_ONLINE_URL", "redis://[h"),
    ],
)
def test_a_wrong_variable_is_named_and_the_file_is_not_blamed(tmp_path: Path, variable: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, "[project]\nname = 'shop'\n[serve]\nport = 1\n"), {variable: text})
    assert f"the environment variable {variable}" in str(caught.value)
    assert FILE not in str(caught.value)


def test_a_wrong_value_of_the_file_names_the_file(tmp_path: Path) -> None:
    for text in ('[serve]\nport = "many"', '[online]\nstale_after = "soon"', '[project]\nname = "No Name"'):
        with pytest.raises(SettingsError, match=FILE):
            load(write(tmp_path, text), {"FEATUREFLOW_SERVE_HOST": "h"})
