"""All settings of polyjob in one table, read from the environment once.

The setting `data_dir` is the variable `POLYJOB_DATA_DIR`. The Kubernetes runner declares its own settings, in
`runners/kubernetes/options.py`. A test holds that the table of docs/configuration.md equals this one.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyjob.setting_values import (
    KINDS,
    InvalidValue,
    Reader,
    SlotsByRunner,
    absolute_path,
    read_address,
    read_file,
    read_indices,
    read_non_negative,
    read_port,
    read_positive,
    read_seconds,
    read_size,
    read_slots,
    read_text,
    read_volumes,
    read_webhook_secret,
    read_webhook_url,
    read_words,
    read_yes_no,
)
from runners.kubernetes.options import Options as KubernetesOptions
from runners.kubernetes.options import read_resources
from runners.volumes import Volume

PREFIX = "POLYJOB_"


class SettingError(ValueError):
    """A setting is not valid. The text names the variable and the values that it takes."""


_OPTION_READERS: dict[str, Reader] = {
    "text": read_text,
    "file": read_file,
    "seconds": read_seconds,
    "resources": read_resources,
}


def _setting(read: Reader, default: str, help: str, default_text: str | None = None) -> Any:
    """Declare a field of Settings. `default_text` describes a default that is empty or depends on the machine."""
    return dataclasses.field(metadata={"read": read, "default": default, "help": help, "default_text": default_text})


def _options_of_runner() -> Any:
    """Declare a field for settings that a runner declares."""
    return dataclasses.field()


def _variables_of_runners() -> Any:
    """Declare the field for variables that only the runners of other packages know."""
    return dataclasses.field(default=())


@dataclass(frozen=True)
class Settings:
    """The settings of one process; immutable."""

    data_dir: Path = _setting(
        absolute_path,
        "",
        "Folder of the database, logs, outputs and builds. Its file system must support file locks and named pipes "
        "(FAT and exFAT have no named pipes). The path must not contain a control character or, with the process "
        "runner, a `:`.",
        "`$XDG_DATA_HOME/polyjob`, else `~/.local/share/polyjob`",
    )
    host: str = _setting(read_text, "127.0.0.1", "Address to listen on.")
    port: int = _setting(read_port, "8000", "Port to listen on; 0 picks a free one.")
    public_url: str = _setting(
        read_address,
        "",
        "Address by which users reach a server behind a proxy, such as `https://example.org/jobs`.",
        "host and port of the server",
    )
    trusted_proxies: int = _setting(
        read_non_negative,
        "0",
        "Number of proxies in front of the server that set `X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix`.",
    )
    runner: str = _setting(
        read_text,
        "process",
        "Runner of new jobs: `process`, `docker`, `kubernetes`, or one that another package provides.",
    )
    runners: tuple[str, ...] = _setting(
        read_words,
        "",
        "Runners that a job can choose from by its `backend`; the first is the default. Replaces `POLYJOB_RUNNER`.",
        "the runner of `POLYJOB_RUNNER` alone",
    )
    slots: int | SlotsByRunner = _setting(
        read_slots,
        "",
        "Maximum number of jobs that run at once on each runner. In a list such as `process=4 docker=2`, a runner "
        "without a number has the default.",
        "the number of CPUs",
    )
    build_slots: int = _setting(read_positive, "2", "Maximum number of builds that run at once.")
    gpus: tuple[int, ...] = _setting(
        read_indices, "", "GPUs that jobs may use, each by one job at a time.", "all GPUs of the machine"
    )
    stop_grace: float = _setting(
        read_seconds, "10", "Time between TERM and KILL when a job is stopped, unless the job sets its own."
    )
    job_timeout: float = _setting(read_seconds, "0", "Time limit of a job that does not set its own; 0 = no limit.")
    build_timeout: float = _setting(read_seconds, "3600", "Time limit of a build.")
    log_limit: int = _setting(read_size, "1G", "Maximum size of a log; later output is counted and dropped.")
    outputs_limit: int = _setting(
        read_size, "100G", "Maximum size of a job's outputs, before compression; 0 = no limit."
    )
    body_limit: int = _setting(read_size, "1M", "Maximum size of a request body that is not an upload.")
    upload_limit: int = _setting(read_size, "512M", "Maximum size of an upload, as sent.")
    unpacked_limit: int = _setting(read_size, "4G", "Maximum size of an upload, unpacked.")
    unpacked_files: int = _setting(read_positive, "100000", "Maximum number of files, folders and links in an upload.")
    disk_low: int = _setting(
        read_size, "256M", "Free disk space below which the server refuses new jobs and uploads with 503."
    )
    public_projects: bool = _setting(
        read_yes_no, "no", "Whether new projects are public, unless their creator sets it."
    )
    cache_limit: int = _setting(
        read_size,
        "20G",
        "Maximum size of all images and virtualenvs of builds; the least recently used are removed. 0 = no limit.",
    )
    keep_days: int = _setting(
        read_non_negative,
        "0",
        "Days after its end after which a job loses its log and outputs, unless it is bookmarked; 0 = never.",
    )
    keep_gb: int = _setting(
        read_non_negative,
        "0",
        "Maximum size of all logs and outputs, in GB; the oldest finished jobs lose theirs, except bookmarked jobs. "
        "0 = no limit.",
    )
    delete_days: int = _setting(
        read_non_negative,
        "0",
        "Days after its end after which a job is deleted with its log and outputs, unless it is "
        "[bookmarked, archived or in use](job-config.md#garbage-collection); 0 = never.",
    )
    archive_days: int = _setting(
        read_non_negative,
        "0",
        "Days after which an archived job, build or project is deleted with its files; 0 = never.",
    )
    audit_days: int = _setting(read_positive, "365", "Retention of the audit trail, in days.")
    notify_url: str = _setting(
        read_webhook_url,
        "",
        "URL that receives the events `failed` and `fixed` of all jobs; see [webhooks](webhooks.md). It may have a "
        "private address.",
        "none",
    )
    notify_secret: str = _setting(
        read_webhook_secret, "", "Key that signs what is sent to `POLYJOB_NOTIFY_URL`.", "none: not signed"
    )
    notify_private: bool = _setting(
        read_yes_no,
        "no",
        "Whether users may have webhooks at private addresses, such as those of this machine and its network. Users "
        "can read the first bytes of each response.",
    )
    job_env: tuple[str, ...] = _setting(
        read_words,
        "PATH HOME USER LANG LC_* TZ TMPDIR SSL_CERT_* REQUESTS_CA_BUNDLE PIP_* *_proxy *_PROXY",
        "Variables of the server's environment that process jobs and build steps inherit; `*` matches any text.",
    )
    job_user: str = _setting(
        read_text,
        "",
        "Account that process jobs and build steps run as; the server must be started as root.",
        "the server's account",
    )
    volumes: tuple[Volume, ...] = _setting(
        read_volumes,
        "",
        "Folders that jobs can use by their names, read-only (`:ro`, the default) or read-write (`:rw`); see "
        "[volumes](#volumes).",
        "none",
    )
    docker_shm: int = _setting(
        read_size, "1G", "Docker: size of `/dev/shm` for a job without a memory limit. Others get half of their limit."
    )
    python: str = _setting(
        read_text,
        "",
        "Python for the virtualenvs of process builds: a path, or a name on PATH.",
        "the Python that runs polyjob",
    )
    kubernetes: KubernetesOptions = _options_of_runner()
    """The settings of the Kubernetes runner."""
    workers: int = _setting(read_positive, "2", "Number of web processes.")
    threads: int = _setting(read_positive, "128", "Threads of each web process.")
    followers: int = _setting(
        read_non_negative,
        "112",
        "Maximum number of log followers and waiting requests of a web process; further ones get 503.",
    )
    log_level: str = _setting(read_text, "info", "Log level of the server: `debug`, `info`, `warning` or `error`.")
    runner_variables: tuple[tuple[str, str], ...] = _variables_of_runners()
    """Variables that can be options of runners of other packages."""

    @property
    def runner_names(self) -> tuple[str, ...]:
        """The runners that jobs can choose from. The first is `runner`, the default."""
        return self.runners or (self.runner,)

    def slots_of(self, runner: str) -> int:
        """Return the maximum number of jobs that run at once on a runner."""
        if isinstance(self.slots, int):
            return self.slots
        return dict(self.slots.numbers).get(runner) or _cpu_count()

    def options_of(self, runner: str) -> dict[str, str]:
        """Return the options of a runner of another package: those variables that begin with its name."""
        prefix = f"{PREFIX}{runner.upper().replace('-', '_')}_"
        return {
            variable.removeprefix(prefix).lower(): value
            for variable, value in self.runner_variables
            if variable.startswith(prefix)
        }

    @property
    def url(self) -> str:
        """The address by which users reach the server, without a final slash."""
        return self.public_url or self.local_url

    @property
    def public_origin(self) -> str:
        """Scheme and host of the public URL; empty if it is not set."""
        return "/".join(self.public_url.split("/")[:3])

    @property
    def public_path(self) -> str:
        """The path of the public URL, such as `/jobs`; empty if it has none."""
        return self.public_url.removeprefix(self.public_origin)

    @property
    def local_url(self) -> str:
        """The address of the server itself, without a proxy in front of it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"


@dataclass(frozen=True)
class _Declaration:
    """One setting: a field of Settings, or of the options of the Kubernetes runner."""

    name: str
    read: Reader
    default: str
    help: str
    default_text: str | None
    option: str | None = None
    """Name of the field of the Kubernetes runner's options."""

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    def value_in(self, settings: Settings) -> Any:
        return getattr(settings.kubernetes, self.option) if self.option else getattr(settings, self.name)


def variable_names() -> list[str]:
    """Return the variables of all settings."""
    return [setting.variable for setting in _declarations()]


def _declarations() -> Iterator[_Declaration]:
    for field in dataclasses.fields(Settings):
        if field.name == "kubernetes":
            yield from map(_declaration_of_option, dataclasses.fields(KubernetesOptions))
        elif field.name != "runner_variables":
            yield _Declaration(field.name, **field.metadata)


def _declaration_of_option(option: dataclasses.Field[Any]) -> _Declaration:
    metadata = option.metadata
    return _Declaration(
        metadata["setting"],
        _OPTION_READERS[metadata["kind"]],
        _as_text(option.default),
        metadata["help"],
        metadata["default_text"],
        option.name,
    )


_SERVICE_LINK = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")
"""The value that Kubernetes and Docker put into `<SERVICE>_PORT` for a service or linked container of that name."""


def read_settings(environ: Mapping[str, str], **overrides: Any) -> Settings:
    """Return the settings of an environment. `overrides` are values, not text, and take precedence; None counts as
    missing.

    A variable that is empty counts as not set. So does a `POLYJOB_PORT` that a cluster created for a service named
    `polyjob`. Raises SettingError for the first variable that is not valid.
    """
    values, options = {}, {}
    for setting in _declarations():
        text = environ.get(setting.variable, "")
        if setting.read is read_port and _SERVICE_LINK.fullmatch(text):
            text = ""
        text = text or setting.default or _machine_default(setting.name)
        try:
            value = setting.read(text)
        except InvalidValue as error:
            raise SettingError(f"{setting.variable} is not valid: {error}") from None
        except (ValueError, KeyError, IndexError):
            message = f"{setting.variable}={text!r} is not valid: expected {KINDS[setting.read]}"
            raise SettingError(message) from None
        if setting.option:
            options[setting.option] = value
        else:
            values[setting.name] = value
    values["kubernetes"] = KubernetesOptions(**options)
    values["runner_variables"] = _undeclared_variables(environ)
    values.update({name: value for name, value in overrides.items() if value is not None})
    return Settings(**values | _chosen_runners(environ, values["runners"], overrides.get("runner")))


def _undeclared_variables(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the variables of the form `POLYJOB_<RUNNER>_<OPTION>` that polyjob itself does not read."""
    declared = set(variable_names())
    return tuple(
        (name, environ[name])
        for name in sorted(environ.keys() - declared)
        if name.startswith(PREFIX) and "_" in name.removeprefix(PREFIX) and environ[name]
    )


def _chosen_runners(environ: Mapping[str, str], names: tuple[str, ...], override: str | None) -> dict[str, Any]:
    """Return the fields `runners` and `runner`, if POLYJOB_RUNNERS sets them and no option of `polyjob serve` does."""
    names = tuple(dict.fromkeys(names))
    single = environ.get("POLYJOB_RUNNER", "")
    if override or not names:
        return {"runners": ()}
    if single and names != (single,):
        raise SettingError(
            f"POLYJOB_RUNNER={single!r} and POLYJOB_RUNNERS={' '.join(names)!r} differ: set only one of them"
        )
    return {"runners": names, "runner": names[0]}


def _machine_default(name: str) -> str:
    """Return the default of a setting whose default depends on the machine."""
    if name == "data_dir":
        return str(Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "polyjob")
    if name == "slots":
        return str(_cpu_count())
    if name == "gpus":
        indices = sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))
        return " ".join(indices) or "none"
    return ""


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0))


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables from which `read_settings` makes the same settings again, for a child process."""
    variables = {setting.variable: _as_text(setting.value_in(settings)) for setting in _declarations()}
    unused = "POLYJOB_RUNNER" if settings.runners else "POLYJOB_RUNNERS"
    return variables | {unused: ""} | dict(settings.runner_variables)


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


@dataclass(frozen=True)
class SettingInfo:
    """A setting as documents show it, in Markdown."""

    variable: str
    kind: str
    default: str
    help: str


def settings_table() -> list[SettingInfo]:
    """Return every setting, in the order of the documentation."""
    return [
        SettingInfo(setting.variable, KINDS[setting.read], setting.default_text or f"`{setting.default}`", setting.help)
        for setting in _declarations()
    ]
