"""Every setting of polyjob in one table, read from the environment once.

A setting `data_dir` is the variable `POLYJOB_DATA_DIR`. The documentation's table is compared with this one by a test.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "POLYJOB_"

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": GIB << 10}

_ADDRESS = re.compile(r"https?://(?:\[[0-9a-z:.%]+\]|[-0-9a-z._~]+)(?::(?P<port>\d+))?/*", re.IGNORECASE)


class SettingError(ValueError):
    """A variable holds what its setting cannot be; the text names the variable and says what it takes."""


def _text(value: str) -> str:
    return value


def _whole(value: str) -> int:
    number = int(value)
    if number < 0:
        raise ValueError
    return number


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError
    return number


def _port(value: str) -> int:
    number = int(value)
    if not 0 <= number <= 65535:
        raise ValueError
    return number


def _seconds(value: str) -> float:
    number = float(value)
    if not 0 <= number < 1e9:
        raise ValueError
    return number


def _size(value: str) -> int:
    text = value.strip().upper().removesuffix("B").removesuffix("I")
    unit = text[-1:] if text[-1:] in "KMGT" else ""
    number = float(text.removesuffix(unit)) * _UNITS[unit]
    if not 0 <= number < 1 << 60:
        raise ValueError
    return int(number)


def _yes_no(value: str) -> bool:
    answers = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    return answers[value.lower()]


def _words(value: str) -> tuple[str, ...]:
    return tuple(value.replace(",", " ").split())


def _indices(value: str) -> tuple[int, ...]:
    return () if value == "none" else tuple(dict.fromkeys(map(_whole, _words(value))))


def absolute_path(value: str | Path) -> Path:
    """Return a path that stays valid when the working folder is removed: absolute, and without `..`.

    Links are followed only where the path has a `..`. Raises ValueError for a relative path in a removed folder, and
    for a home folder that does not exist.
    """
    try:
        path = Path(value).expanduser().absolute()
        return path.resolve() if ".." in path.parts else path
    except (OSError, RuntimeError):
        raise ValueError(f"{str(value)!r} cannot be made absolute; give an absolute path") from None


def _file(value: str) -> str:
    return str(absolute_path(value)) if value else ""


def _address(value: str) -> str:
    match = _ADDRESS.fullmatch(value)
    if value and not match:
        raise ValueError
    if match and match["port"]:
        _port(match["port"])
    return value.rstrip("/").lower()


_RESOURCE = re.compile(r"(?:requests|limits)\.[\w./-]+=\d+(?:\.\d+)?(?:[munkMGTPE]|[KMGTPE]i)?")


def _resources(value: str) -> str:
    words = value.split()
    if words != ["none"] and not all(_RESOURCE.fullmatch(word) for word in words):
        raise ValueError
    return " ".join(words)


_KINDS: dict[Callable[[str], Any], str] = {
    _text: "text",
    _whole: "a whole number, 0 or more",
    _positive: "a whole number, 1 or more",
    _port: "a port, 0 to 65535",
    _seconds: "seconds",
    _size: "bytes, or a number with K, M, G or T",
    _yes_no: "yes or no",
    _words: "names, separated by blanks or commas",
    _indices: "indices, separated by blanks or commas, or `none`",
    absolute_path: "a path",
    _resources: "words such as `limits.cpu=200m`, or `none`",
    _file: "the path of a file",
    _address: "`http://` or `https://` and a host, with no path after it",
}


def _setting(read: Callable[[str], Any], default: str, help: str, shown: str | None = None) -> Any:
    """A field of Settings. `shown` stands for the default in documents where the default depends on the machine."""
    metadata = {"read": read, "default": default, "help": help, "shown": shown or default}
    return dataclasses.field(metadata=metadata)


def _default_data_dir() -> str:
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return str(Path(base) / "polyjob")


@dataclass(frozen=True)
class Settings:
    """The settings of one process; frozen. See each field's `help`."""

    data_dir: Path = _setting(
        absolute_path,
        "",
        "Folder of the database, logs, outputs and builds. Its file system must support named pipes and file locks; "
        "FAT and exFAT have no named pipes. The path must not contain a control character, or with the process runner "
        "a `:`.",
        "`$XDG_DATA_HOME/polyjob`, else `~/.local/share/polyjob`",
    )
    host: str = _setting(_text, "127.0.0.1", "Address that the server listens on.")
    port: int = _setting(_port, "8000", "Port that the server listens on; 0 takes a free one.")
    public_url: str = _setting(
        _address,
        "",
        "Address that users reach the server by, where a proxy stands before it, such as `https://jobs.example.org`.",
    )
    trusted_proxies: int = _setting(
        _whole, "0", "How many proxies stand before the server and set `X-Forwarded-For`, `-Proto` and `-Host`."
    )
    runner: str = _setting(_text, "process", "Runner of new jobs: `process`, `docker` or `kubernetes`.")
    slots: int = _setting(_positive, "", "Jobs that run at once.", "the number of CPUs")
    build_slots: int = _setting(_positive, "2", "Builds that run at once.")
    gpus: tuple[int, ...] = _setting(
        _indices, "", "GPUs that jobs may be given, each to one job at a time.", "those of this machine"
    )
    stop_grace: float = _setting(
        _seconds, "10", "Time between TERM and KILL of a stopped job that does not set its own."
    )
    job_timeout: float = _setting(_seconds, "0", "Time that a job may run that does not set its own; 0 = no limit.")
    build_timeout: float = _setting(_seconds, "3600", "Time that a build may take.")
    log_limit: int = _setting(_size, "1G", "Log kept of one job or build; what comes after is counted and dropped.")
    outputs_limit: int = _setting(_size, "100G", "Outputs kept of one job, before compression; 0 = no limit.")
    body_limit: int = _setting(_size, "1M", "Largest request body that is not an upload.")
    upload_limit: int = _setting(_size, "512M", "Largest code upload, as sent.")
    unpacked_limit: int = _setting(_size, "4G", "Largest code upload, unpacked.")
    unpacked_files: int = _setting(_positive, "100000", "Most files, folders and links in one code upload.")
    disk_low: int = _setting(_size, "256M", "Free disk space below which new jobs and uploads are refused with 503.")
    public_projects: bool = _setting(_yes_no, "no", "Whether a new project is public where its creator does not say.")
    cache_limit: int = _setting(
        _size, "20G", "Room for images and virtualenvs of builds; those unused for longest go first. 0 = no limit."
    )
    keep_days: int = _setting(
        _whole, "0", "Days that log and outputs of a job that has ended are kept, unless bookmarked; 0 = for ever."
    )
    keep_gb: int = _setting(
        _whole, "0", "GB that logs and outputs may take; those of the oldest jobs go first, as above; 0 = no limit."
    )
    archive_days: int = _setting(
        _whole, "0", "Days after which an archived job, build or project is deleted with all that it has; 0 = never."
    )
    audit_days: int = _setting(_positive, "365", "Days that the audit trail is kept.")
    job_env: tuple[str, ...] = _setting(
        _words,
        "PATH HOME USER LANG LC_* TZ TMPDIR SSL_CERT_* REQUESTS_CA_BUNDLE PIP_* *_proxy *_PROXY",
        "Variables of the server's environment that process jobs and build steps see; `*` stands for any text.",
    )
    job_user: str = _setting(
        _text,
        "",
        "Account that process jobs and build steps run as, on a server started as root; empty = the server's own.",
    )
    docker_shm: int = _setting(
        _size, "1G", "Docker: `/dev/shm` of a job without a memory limit; with one, it is half of that."
    )
    python: str = _setting(
        _text,
        "",
        "Python that makes the virtualenvs of process builds: a path, or a name on PATH.",
        "the one that runs polyjob",
    )
    kube_config: str = _setting(
        _file,
        "",
        "Kubernetes: the kubeconfig file.",
        "that of KUBECONFIG, `~/.kube/config`, or the account of polyjob's own pod",
    )
    kube_context: str = _setting(_text, "", "Kubernetes: the context of the kubeconfig.", "the current one")
    kube_namespace: str = _setting(
        _text, "", "Kubernetes: the namespace of jobs.", "the context's, or that of polyjob's own pod"
    )
    kube_patience: float = _setting(
        _seconds, "600", "Kubernetes: time that a pod may find no node, or no image, before its job fails."
    )
    kube_helper_image: str = _setting(
        _text, "busybox:stable", "Kubernetes: image with `sh`, `tar`, `head`, `rm` and `sleep` that carries files."
    )
    kube_helper_resources: str = _setting(
        _resources,
        "requests.cpu=10m requests.memory=32Mi limits.cpu=200m limits.memory=128Mi",
        "Kubernetes: what each helper container asks for, within what a LimitRange of the namespace allows.",
    )
    kube_claim: str = _setting(
        _text, "", "Kubernetes: volume claim that holds the files of running jobs.", "an `emptyDir` of each pod"
    )
    kube_gpu: str = _setting(_text, "nvidia.com/gpu", "Kubernetes: the resource that `gpu` asks for.")
    registry: str = _setting(
        _text,
        "",
        "Kubernetes: where images of builds go, such as `registry.example.org/team`; `http://` before it: without TLS.",
        "the steps run in each job's pod",
    )
    registry_secret: str = _setting(
        _text, "", "Kubernetes: secret of type `kubernetes.io/dockerconfigjson` to push and pull with."
    )
    builder_image: str = _setting(_text, "moby/buildkit:rootless", "Kubernetes: image that builds images.")
    builder_command: str = _setting(
        _text, "", "Kubernetes: shell text that builds `./Dockerfile` and pushes `$IMAGE`.", "for `buildctl`"
    )
    workers: int = _setting(_positive, "2", "Web processes.")
    threads: int = _setting(_positive, "128", "Threads of each web process.")
    followers: int = _setting(
        _whole, "112", "Log followers and waiting requests that one web process takes at once; the next is told 503."
    )
    log_level: str = _setting(_text, "info", "Least level of the server's own messages: debug, info, warning or error.")

    @property
    def url(self) -> str:
        """Where users reach the server, without a final slash."""
        if self.public_url:
            return self.public_url
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}"


_SERVICE_LINK = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")
"""The value that Kubernetes and Docker put into `<SERVICE>_PORT` for a service or linked container of that name."""


def read_settings(environ: Mapping[str, str], **overrides: Any) -> Settings:
    """The settings that `environ` and then `overrides` (values, not text; None = not given) make.

    Raises SettingError for the first variable that cannot be read. A variable that is set but empty counts as not set.
    So does a `POLYJOB_PORT` that a cluster made for a service named `polyjob`.
    """
    values = {}
    for field in dataclasses.fields(Settings):
        variable = PREFIX + field.name.upper()
        read = field.metadata["read"]
        given = environ.get(variable, "")
        if read is _port and _SERVICE_LINK.fullmatch(given):
            given = ""
        text = given or field.metadata["default"] or _machine_default(field.name)
        try:
            values[field.name] = read(text)
        except (ValueError, KeyError, IndexError):
            raise SettingError(f"{variable}={text!r} is not valid: it takes {_KINDS[read]}") from None
    values.update({name: value for name, value in overrides.items() if value is not None})
    return Settings(**values)


def _machine_default(name: str) -> str:
    if name == "data_dir":
        return _default_data_dir()
    if name == "slots":
        return str(len(os.sched_getaffinity(0)))
    if name == "gpus":
        return (
            " ".join(sorted(path.name.removeprefix("nvidia") for path in Path("/dev").glob("nvidia[0-9]*"))) or "none"
        )
    return ""


def environment(settings: Settings) -> dict[str, str]:
    """The variables from which `read_settings` makes the same settings again, for a child process."""
    return {
        PREFIX + field.name.upper(): _as_text(getattr(settings, field.name)) for field in dataclasses.fields(Settings)
    }


def _as_text(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def table() -> list[tuple[str, str, str, str]]:
    """(variable, what it takes, default as shown in documents, help) of every setting, in order."""
    return [
        (PREFIX + field.name.upper(), _KINDS[field.metadata["read"]], field.metadata["shown"], field.metadata["help"])
        for field in dataclasses.fields(Settings)
    ]
