"""``featureflow.toml`` and the environment, read once by the entry points into frozen values.

Every value has a default that works on a laptop with no server: the word ``embedded`` stands for a server child that
FeatureFlow starts itself (log and online store) and for a SQLite file (history). ``FEATUREFLOW_<SECTION>_<KEY>`` in the environment
(``FEATUREFLOW_LOG_URL``) overrides ``key`` in ``[section]``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec

from featureflow import clock, limits
from featureflow.define.spec import DEFAULT_PROJECT
from featureflow.errors import SettingsError

FILE = "featureflow.toml"
EMBEDDED = "embedded"
SECRET_OPTION = re.compile(r"(?i)([^&=]*(?:password|secret|token|key)[^&=]*)=[^&]*")
UNENCODED = re.compile(r"[^/]*://[^/?#@]*:(?!\d+(?:$|[/,]))[^@]*$")  # after a colon, no port and no host: a password that its ? cut off
STALE_AFTER_US = 5_000_000
LONGEST_WAIT_US = 5_000_000                # of watch.wait
ALIKE = 0.85                               # names that are so near each other are meant to be the same
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
Something = Annotated[str, msgspec.Meta(min_length=1)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    def __repr__(self) -> str:
        shown = ", ".join(
            f"{f}={mask(v) if isinstance(v := getattr(self, f), str) else v!r}" for f in self.__struct_fields__
        )
        return f"{type(self).__name__}({shown})"


class ProjectSettings(_Section, frozen=True):
    """What the project is called, and where its files are."""

    name: str = ""  # what it is called on servers that projects share; empty: "default", on servers of its own only
    definitions: Something = "features.py"  # the file that says what features are
    data: Something = ".featureflow"  # embedded servers and SQLite keep their files here


class LogSettings(_Section, frozen=True):
    """The log that events are read from."""

    url: str = EMBEDDED  # or kafka://host:9092,host:9092
    partitions: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 4  # of topics that ``apply`` creates
    schema_registry_url: str = ""  # http[s]://[user:password@]host:8081, of events in Avro or Protobuf; empty: none


class OnlineSettings(_Section, frozen=True):
    """The store that states are in."""

    url: str = EMBEDDED  # or redis://[user:password@]host:6379/0, rediss://, unix:///path, redis+cluster://host:6379,host:6379
    buckets: Annotated[int, msgspec.Meta(ge=0, le=limits.BUCKETS)] = 0  # for good; 0: as they are, at first 16 in a cluster, else 32
    stale_after: str = "30s"  # features are ``stale`` where an event that was in the log so long ago may not be counted
    tracking: bool = True  # scorers ask the server to tell what changes; false where a proxy stands between that mixes answers of several


class HistorySettings(_Section, frozen=True):
    """The database that events, predictions and dead letters are written to."""

    url: str = EMBEDDED  # or mysql+pymysql://user:password@host:3306/database, sqlite:///file


class ModelSettings(_Section, frozen=True):
    """The folder of model versions, relative to the project's, and what a scorer holds of them ready to run."""

    path: Something = "models"
    sessions: AtLeastOne = 8  # at once; of more models than that some are loaded again for those who ask
    session_bytes: Annotated[int, msgspec.Meta(ge=1)] = 4 * 1024**3  # of their files
    idle: str = "10m"  # a session that nobody asks for so long is dropped
    public_key: str = ""  # PEM file of an Ed25519 key: no file is added that it has not signed; empty: signatures are not asked for


class ServeSettings(_Section, frozen=True):
    """Where the scorer listens, in how many processes."""

    host: Something = "127.0.0.1"  # an empty one would be every address of the machine
    port: Port = 8080
    workers: AtLeastOne = 1
    log_predictions: bool = True
    feature_cache_bytes: AtLeastOne = limits.FEATURE_CACHE_BYTES  # state of models with max_age or stale_for, of each process
    breaker_timeout: str = "1s"  # of a circuit breaker: calls that take longer count as errors,
    breaker_concurrency: AtLeastOne = 100  # so many may be under way at once,
    breaker_error_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.25  # and it opens where so large a share ended in errors
    indexes: Something = "indexes"  # the folder of vector indexes, relative to the project's


class WorkerSettings(_Section, frozen=True):
    """Of ``ingest`` and ``history`` alike."""

    group: str = ""  # consumer group; empty: featureflow.NAME.ingest, featureflow.NAME.history
    member: str = ""  # durable name of this member (static membership); empty: none
    metrics_host: Something = "127.0.0.1"
    metrics_port: Port = 0  # 0: no metrics endpoint


class WatchSettings(WorkerSettings, frozen=True):
    """Of ``watch``. ``group``: what its groups' names begin with; empty: featureflow.NAME.watch."""

    wait: str = "2s"  # how long an event waits for the features that count it, from when the log took it
    webhook: str = ""  # http[s]://host/path that alerts are posted to; empty: none


class ClockSettings(_Section, frozen=True):
    """What time it is."""

    shift_us: Annotated[int, msgspec.Meta(ge=-(2**52), le=2**52)] = 0  # added to the system's clock: a replayed past that counts as now


class TracingSettings(_Section, frozen=True):
    """Whether spans are made."""

    enabled: bool = False  # spans over OTLP, as the OTEL_* variables say; needs the otel extra


class Settings(_Section, frozen=True):
    """All settings of one project, by section."""

    project: ProjectSettings = ProjectSettings()
    log: LogSettings = LogSettings()
    online: OnlineSettings = OnlineSettings()
    history: HistorySettings = HistorySettings()
    models: ModelSettings = ModelSettings()
    serve: ServeSettings = ServeSettings()
    ingest: WorkerSettings = WorkerSettings()
    history_writer: WorkerSettings = WorkerSettings()
    watch: WatchSettings = WatchSettings()
    clock: ClockSettings = ClockSettings()
    tracing: TracingSettings = TracingSettings()
    folder: str = "."  # where the file stood; relative paths start here

    @property
    def name(self) -> str:
        """The project's name, on shared servers part of every topic, consumer group and key that is its own."""
        return self.project.name or DEFAULT_PROJECT

    def path(self, relative: str) -> Path:
        """A path of the settings, relative to the project's folder."""
        return Path(self.folder, relative).resolve()


def load(folder: Path, environment: Mapping[str, str]) -> Settings:
    """Read ``folder/featureflow.toml`` (if there is one) and the environment.

    Raises SettingsError naming the file or variable, the key, and what may stand there.
    """
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder; name the project's with --project, or make one: featureflow init {folder}")
    try:
        str(folder.resolve()).encode()
    except FileNotFoundError:
        raise SettingsError("the folder that this runs in was deleted; change to one that is there") from None
    except UnicodeEncodeError:             # URLs of sockets and files are made of it
        raise SettingsError(
            f"the path of the project's folder is no text in this locale: {str(folder.resolve())!r}. Set PYTHONUTF8=1, or a locale of UTF-8"
        ) from None
    file = folder / FILE
    raw: dict[str, Any] = {}
    if file.exists() and not file.is_file():
        raise SettingsError(f"{file} is no file; write the settings into one of that name, or remove it for the defaults")
    if file.is_file():
        try:
            raw = tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{file}: not valid TOML: {error}") from error
    _refuse_unknown(raw, file)
    places: dict[str, str] = {}
    for variable, text in environment.items():
        if (key := _key_of(variable)) is not None:
            section, name = key
            raw.setdefault(section, {})[name] = text
            places[f"{section}.{name}"] = f"the environment variable {variable}"
    try:
        settings = msgspec.convert({**raw, "folder": str(folder)}, Settings, strict=False)
    except msgspec.ValidationError as error:
        place = places.get(str(error).rpartition("`$.")[2].rstrip("`"), str(file))
        raise SettingsError(f"{place}: {error}. Correct that value, or remove it to use the default") from error

    def said(key: str) -> str:
        return f"{places.get(key, str(file))}: {key}"

    _check_stale_after(settings.online.stale_after, said("online.stale_after"))
    _check_database(settings.log.url, said("log.url"))
    _check_database(settings.online.url, said("online.url"))
    _check_wait(settings.watch.wait, said("watch.wait"))
    if settings.watch.webhook:
        check_webhook(settings.watch.webhook, said("watch.webhook"))
    _check_name(settings, file, said("project.name"))
    return settings


def _check_stale_after(text: str, said: str) -> None:
    """What ingest knows of the log's end is two to three seconds old where nothing lags."""
    if duration_us(text, said) < STALE_AFTER_US:
        raise SettingsError(f'{said} = {text!r} is too short: fresh features would be called stale. Write "5s" or more')


def _check_wait(text: str, said: str) -> None:
    """A member that says nothing for longer loses its partitions."""
    if duration_us(text, said) > LONGEST_WAIT_US:
        raise SettingsError(f'{said} = {text!r} is longer than 5s; write "2s"')


def check_webhook(url: str, said: str = "watch.webhook") -> None:
    """Raises SettingsError for what is no address to post to."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SettingsError(f"{said} = {mask(url)!r} is no URL: {error}") from None
    try:
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:                     # its own message shows what stands where a port should, which may be of a password
        good = False
    if not good:
        raise SettingsError(f"{said} = {mask(url)!r} is no address to post to; write https://host/path, or nothing for none")


def _check_database(url: str, said: str) -> None:
    """redis-py takes database 0 where it cannot read the number."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SettingsError(f"{said} = {mask(url)} is no URL: {error}") from None
    if parts.scheme not in ("redis", "rediss"):
        return
    try:
        _ = parts.port
    except ValueError:                     # its own message shows what stands there, which may be of a password
        raise SettingsError(
            f"{said} = {mask(url)} has no port that is a number up to 65535; in a user name or password write / as %2F, ? as %3F, # as %23"
        ) from None
    if re.fullmatch(r"/?\d*", parts.path, re.ASCII) is None:
        raise SettingsError(f"{said} = {mask(url)} ends in the number of a database, such as /0; it ends in {parts.path!r}")


def _check_name(settings: Settings, file: Path, said: str) -> None:
    """Names go into topics, consumer groups and keys, and no other project on the same servers may have the same ones."""
    name = settings.project.name
    if name and NAME.fullmatch(name) is None:
        raise SettingsError(
            f"{said} = {name!r} is no project's name; write up to 64 lower-case letters, digits, - and _, a letter or digit first"
        )
    urls = {"log.url": settings.log.url, "online.url": settings.online.url, "history.url": settings.history.url}
    shared = [key for key, url in urls.items() if url != EMBEDDED and not url.startswith("sqlite:")]
    if shared and not name:
        raise SettingsError(
            f"{', '.join(shared)} may be shared with other projects, and this one has no name. Write into {file}, and keep it:\n"
            '  [project]\n  name = "..."'
        )


def duration_us(text: str, key: str) -> int:
    """``"30s"`` -> 30,000,000. Raises SettingsError naming ``key``."""
    if (us := clock.duration_us(text)) is None:
        raise SettingsError(f'{key} = {text!r} is no duration; write a whole number and {", ".join(clock.UNIT_US)}, as in "30s"')
    return us


def mask(text: str) -> str:
    """The text with a URL's password, and options that may hold a secret, replaced, for messages and logs."""
    if "://" not in text:
        return text
    address, question, options = text.partition("?")
    if "@" in options and UNENCODED.match(address):      # what looks like options is of a password
        address, question, options = text, "", ""
    address = re.sub(r"(?<=://)([^/@]*?):.*@", r"\1:***@", address)
    return address + question + SECRET_OPTION.sub(r"\1=***", options)


def _key_of(variable: str) -> tuple[str, str] | None:
    if not variable.startswith("FEATUREFLOW_"):
        return None
    rest = variable.removeprefix("FEATUREFLOW_").lower()
    for section, name in _keys():
        if rest == f"{section}_{name}":
            return section, name
    return None  # FEATUREFLOW_ names that are not settings belong to scripts


def misspelt(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that are no settings, and nearly the name of one -> that one's."""
    known = [f"{section}_{name}".upper() for section, name in _keys()]
    rests = [variable.removeprefix("FEATUREFLOW_") for variable in environment if variable.startswith("FEATUREFLOW_")]
    near = {rest: get_close_matches(rest, known, n=1, cutoff=ALIKE) for rest in rests if rest not in known}
    return {f"FEATUREFLOW_{rest}": f"FEATUREFLOW_{meant[0]}" for rest, meant in near.items() if meant}


def _keys() -> list[tuple[str, str]]:
    sections = [f for f in Settings.__struct_fields__ if f != "folder"]
    return [(s, name) for s in sections for name in getattr(Settings(), s).__struct_fields__]


def _refuse_unknown(raw: dict[str, Any], file: Path) -> None:
    known: dict[str, set[str]] = {}
    for section, name in _keys():
        known.setdefault(section, set()).add(name)
    for section, values in raw.items():
        if section not in known:
            raise SettingsError(
                f"{file}: [{section}] is no section{_near(section, known)}. Sections: {', '.join(sorted(known))}"
            )
        if not isinstance(values, dict):
            raise SettingsError(f"{file}: {section} must be a section: write [{section}] on its own line")
        for name in values:
            if name not in known[section]:
                raise SettingsError(
                    f"{file}: {name!r} is no key of [{section}]{_near(name, known[section])}. Keys: {', '.join(sorted(known[section]))}"
                )


def _near(word: str, known: set[str] | dict[str, set[str]]) -> str:
    near = get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
