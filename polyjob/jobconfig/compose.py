"""Compose a job from single fields: the fields of the pages' form, or the options of `polyjob run`. Pure.

Both callers read their input into `JobFields`, so that the same values submit the same job.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polyjob.jobconfig.commands import literal_command

RESOURCES = ("cpu", "memory", "gpu")
"""Resources that have a field. A field sets the limit of its resource."""


@dataclass(frozen=True)
class JobFields:
    """The fields of a new job. A field with its default value leaves the config unchanged."""

    command: str | None = None
    """Shell text. Replaces the `run` section of the config."""
    image: str = ""
    build_steps: Sequence[str] = ()
    """Added to the build steps of the config."""
    env_vars: Sequence[tuple[str, str]] = ()
    """(name, value), added to the variables of the config."""
    secrets: Sequence[str] = ()
    """Names, added to the secrets of the config."""
    workdir: str = ""
    """Working folder, unless the config names one."""
    caller_vars: Sequence[tuple[str, str]] = ()
    """(name, value) of the caller, added except for the names that the config or `env_vars` sets."""
    resources: Mapping[str, str] = field(default_factory=dict)
    """Limit of each of `RESOURCES`, such as {"memory": "4Gi"}."""
    volumes: Sequence[str] = ()
    """Names, added to the volumes of the config."""
    params: Mapping[str, Any] = field(default_factory=dict)
    backend: str = ""
    """The runner of the job."""
    timeout: float | None = None
    """Time limit in seconds."""
    retries: int | None = None
    """Number of retries if the job fails."""
    name: str = ""
    tags: Sequence[str] = ()
    after: Sequence[Mapping[str, Any]] = ()
    """Dependencies: {"job", "on"}."""
    inputs_from: Sequence[int | str] = ()
    """Jobs whose outputs the job reads, added to those of the config."""
    notify: str = ""
    """URL that receives the end of the job."""


@dataclass(frozen=True)
class ComposedJob:
    """The request body that submits a job, and the field that each value in it came from."""

    body: dict[str, Any]
    sources: dict[tuple[str, ...], str]
    """The parts of a JSON pointer into the body, such as ("config", "build", "image"), to the name of the field. A
    resource counts as a field of its own."""


def working_folder(config: Mapping[str, Any] | None) -> Any:
    """Return the working folder that a config names for its job, or None. The config need not be valid."""
    section = (config or {}).get("environment")
    return section.get("workdir") if isinstance(section, Mapping) else None


def compose_job(fields: JobFields, base: Mapping[str, Any] | None = None) -> ComposedJob:
    """Return the job of a config `base` with the fields applied to it. `base` is not modified.

    A section or list of `base` that has the wrong type is left unchanged, and fields that belong in it are ignored:
    the validation of the config reports the type better than a guess here would.
    """
    job = _Composer(base or {})
    if fields.command is not None:
        job.set("command", ("run",), {"cmd": literal_command(fields.command)})
    if fields.image:
        job.set("image", ("build", "image"), fields.image)
    if fields.build_steps:
        job.extend("build_steps", ("build", "build_steps"), list(fields.build_steps))
    if fields.env_vars:
        job.extend("env_vars", ("environment", "env_vars"), [list(pair) for pair in fields.env_vars])
    if fields.secrets:
        job.extend("secrets", ("environment", "secret_refs"), list(fields.secrets))
    set_names = _variable_names(base or {}) | {name for name, _ in fields.env_vars} | {*fields.secrets}
    caller_vars = [[name, value] for name, value in fields.caller_vars if name not in set_names]
    if caller_vars:
        job.extend("caller_vars", ("environment", "env_vars"), caller_vars)
    if fields.inputs_from:
        job.extend("inputs_from", ("environment", "outputs", "jobs"), list(fields.inputs_from))
    if fields.workdir:
        job.set_default("workdir", ("environment", "workdir"), fields.workdir)
    for resource in RESOURCES:
        if limit := fields.resources.get(resource):
            job.set(resource, ("environment", "resources", resource), {"limits": limit})
    if fields.volumes:
        job.extend("volumes", _volume_list_of(base or {}), list(fields.volumes))
    for name, value in fields.params.items():
        job.set("params", ("params", name), value)
    if fields.backend:
        job.set("backend", ("backend",), fields.backend)
    if fields.timeout is not None:
        timeout = int(fields.timeout) if float(fields.timeout).is_integer() else fields.timeout
        job.set("timeout", ("termination", "timeout"), timeout)
    if fields.retries is not None:
        job.set("retries", ("termination", "max_retries"), fields.retries)
    if fields.name:
        job.set_beside_config("name", fields.name)
    if fields.tags:
        job.set_beside_config("tags", list(fields.tags))
    if fields.after:
        job.set_beside_config("after", list(fields.after))
    if fields.notify:
        job.set_beside_config("notify", fields.notify)
    return ComposedJob(job.body, job.sources)


def _volume_list_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the path of the list to which volumes are added, because a config may have only one such list."""
    environment = config.get("environment")
    persistence = environment.get("persistence") if isinstance(environment, Mapping) else None
    has_persistence = isinstance(persistence, Mapping) and persistence.get("data")
    return ("environment", "persistence", "data") if has_persistence else ("environment", "data_refs")


def _variable_names(config: Mapping[str, Any]) -> set[str]:
    """Return the names of the variables that a config sets for its job, as far as it is valid."""
    names = set()
    for section in (config.get("build"), config.get("environment")):
        if not isinstance(section, Mapping):
            continue
        variables = section.get("env_vars")
        pairs = variables.items() if isinstance(variables, Mapping) else variables
        if isinstance(pairs, Iterable):
            names |= {pair[0] for pair in pairs if isinstance(pair, list | tuple) and pair and isinstance(pair[0], str)}
        if section.get("lang_env"):
            names.add("LANG")
    return names


class _Composer:
    def __init__(self, base: Mapping[str, Any]) -> None:
        self._config = dict(base)
        self.body: dict[str, Any] = {"config": self._config}
        self.sources: dict[tuple[str, ...], str] = {}

    def set(self, source: str, path: tuple[str, ...], value: Any) -> None:
        section = self._section(path[:-1])
        if section is not None:
            section[path[-1]] = value
            self.sources["config", *path] = source

    def set_default(self, source: str, path: tuple[str, ...], value: Any) -> None:
        """Set a value that is missing or null."""
        section = self._section(path[:-1])
        if section is not None and section.get(path[-1]) is None:
            self.set(source, path, value)

    def extend(self, source: str, path: tuple[str, ...], items: list[Any]) -> None:
        """Add items to a list. A mapping becomes a list of pairs."""
        section = self._section(path[:-1])
        if section is None:
            return
        existing = section.get(path[-1])
        if isinstance(existing, Mapping):
            existing = [list(pair) for pair in existing.items()]
        if not isinstance(existing, list | None):
            return
        existing = existing or []
        section[path[-1]] = [*existing, *items]
        for index in range(len(existing), len(existing) + len(items)):
            self.sources["config", *path, str(index)] = source

    def set_beside_config(self, name: str, value: Any) -> None:
        self.body[name] = value
        self.sources[name,] = name

    def _section(self, path: tuple[str, ...]) -> dict[str, Any] | None:
        """Replace a section by a copy and return the copy. A missing section is created.

        Return None if the section, or one above it, is not a mapping.
        """
        section = self._config
        for name in path:
            inner = section.get(name)
            if not isinstance(inner, Mapping | None):
                return None
            section[name] = dict(inner or {})
            section = section[name]
        return section
