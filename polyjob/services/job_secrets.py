"""Secrets of jobs: store, list and delete them; check the names in a config; read the values for a start.

A job names secrets in `environment.secret_refs`, and receives each as a variable of that name. A secret of the job's
project takes precedence over one of the server with the same name. A value never leaves this module except to a runner.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peewee import ModelSelect

from polyjob.clock import now
from polyjob.db.database import write
from polyjob.db.models import Project, Secret, User
from polyjob.db.prepared import insert
from polyjob.errors import Conflict, Invalid, NotFound, Problem, Unavailable
from polyjob.services import audit
from polyjob.services.sorting import shorten
from polyjob.services.specs import SECRET_NAME, secret_names
from polyjob.storage import secret_box
from polyjob.storage.secret_box import BadKey, CannotDecrypt
from runners.capabilities import CLUSTER_SECRET_RUNNERS
from runners.common.masking import MIN_CHARACTERS, masked_lines

MAX_SECRETS = 100
"""Secrets of one project, and of the server."""
MAX_SECRET_BYTES = 32_768
MAX_JOB_SECRETS = 20
"""Secrets of one job."""
NAME_RULE = "a name has up to 100 capital letters, digits and `_`, and does not begin with a digit"
RESERVED_PREFIXES = ("CUDA_", "LD_", "NVIDIA_", "POLYAXON_", "POLYJOB_", "TINI_")
RESERVED_NAMES = frozenset({"HOME", "PATH", "PYTHONUNBUFFERED", "TMPDIR", "VIRTUAL_ENV"})
"""Variables that polyjob or the runner sets."""


class SecretUnusable(Exception):
    """A job cannot be started with its secrets. The text is a sentence that names the secret."""


def list_secrets(project: Project | None) -> ModelSelect[Secret]:
    """Return the secrets that jobs of the project can name, or those of the server without a project; by name.

    A secret of the server that the project has replaced by its own is listed, too.
    """
    is_listed = Secret.project.is_null() if project is None else (Secret.project == project) | Secret.project.is_null()
    return Secret.select().where(is_listed).order_by(Secret.name, Secret.project.is_null())


def set_secret(project: Project | None, user: User, name: str, value: str, data_dir: Path) -> Secret:
    """Store a secret of the project, or of the server without a project. An earlier value is replaced.

    Jobs that run keep the value with which they were started. Raises Invalid, Conflict beyond `MAX_SECRETS`, and
    Unavailable if the key file cannot be used.
    """
    _check_name(name)
    _check_value(value)
    try:
        encrypted = secret_box.encrypt(data_dir, value)
    except (BadKey, OSError) as error:
        raise Unavailable(f"The secret cannot be encrypted: {error}.") from None
    with write("secret"):
        moment, existing = now(), _find(project, name)
        if existing is None:
            if _own(project).count() >= MAX_SECRETS:
                owner = "The server" if project is None else "The project"
                raise Conflict(f"{owner} has {MAX_SECRETS} secrets already; remove one first.")
            columns = {"project": project, "name": name, "value": encrypted, "user": user}
            secret = insert(Secret, columns | {"created_at": moment, "updated_at": moment})
        else:
            secret = existing
            secret.value, secret.user, secret.updated_at = encrypted, user, moment
            secret.save()
        audit.record("create" if existing is None else "update", secret)
    return secret


def delete(project: Project | None, name: str) -> None:
    """Delete a secret. Jobs that run keep it; one that waits and names it will fail. Raises NotFound."""
    with write("secret"):
        secret = _find(project, name)
        if secret is None:
            owner = "The server" if project is None else "This project"
            raise NotFound(f"{owner} has no secret `{name}`.")
        secret.delete_instance()
        audit.record("delete", secret)


def check_names(config: Mapping[str, Any] | None, project_id: int, runner: str, pointer: str = "/config") -> None:
    """Raise Invalid with a pointer to each secret in the config that does not exist.

    The secrets of a cluster are not checked.
    """
    listed: list[str] = ((config or {}).get("environment") or {}).get("secret_refs") or []
    if not listed:
        return
    base, names = f"{pointer}/environment/secret_refs", secret_names(config)
    if len(names) > MAX_JOB_SECRETS:
        raise Invalid([Problem(base, f"A job can have at most {MAX_JOB_SECRETS} secrets, not {len(names)}.")])
    existing = _for_jobs(project_id, names)
    problems = []
    for index, name in enumerate(listed):
        is_of_cluster = name not in names and runner in CLUSTER_SECRET_RUNNERS
        if name not in existing and not is_of_cluster:
            advice = f"store it with `polyjob secret set {name}`" if name in names else NAME_RULE
            problems.append(Problem(f"{base}/{index}", f"There is no secret `{shorten(name)}`; {advice}."))
    if problems:
        raise Invalid(problems)


def encrypted_values(config: Mapping[str, Any] | None, project_id: int) -> dict[str, str | None]:
    """Return name → encrypted value of the secrets that a job names; None for one that was deleted meanwhile."""
    names = secret_names(config)
    return {**dict.fromkeys(names), **_for_jobs(project_id, names)} if names else {}


def decrypt_values(encrypted: Mapping[str, str | None], data_dir: Path) -> dict[str, str]:
    """Return name → value. Reads the key file. Raises SecretUnusable, OSError."""
    values = {}
    for name, text in encrypted.items():
        if text is None:
            raise SecretUnusable(f"The secret `{name}` was deleted while the job waited")
        try:
            values[name] = secret_box.decrypt(data_dir, text)
        except CannotDecrypt as error:
            raise SecretUnusable(f"The secret `{name}` cannot be decrypted: {error}. Set it again") from None
    return values


def _for_jobs(project_id: int, names: Iterable[str]) -> dict[str, str]:
    """Return name → encrypted value of those secrets that jobs of the project can name."""
    is_visible = (Secret.project == project_id) | Secret.project.is_null()
    rows = Secret.select(Secret.name, Secret.value).where(Secret.name << list(names), is_visible)
    return {row.name: row.value for row in rows.order_by(Secret.project.is_null().desc())}


def _own(project: Project | None) -> ModelSelect[Secret]:
    return Secret.select().where(Secret.project.is_null() if project is None else Secret.project == project)


def _find(project: Project | None, name: str) -> Secret | None:
    secret: Secret | None = _own(project).where(Secret.name == name).first()
    return secret


def _check_name(name: str) -> None:
    if not SECRET_NAME.match(name):
        raise Invalid([Problem("/name", f"`{shorten(name)}` is not the name of a secret; {NAME_RULE}.")])
    if name.startswith(RESERVED_PREFIXES) or name in RESERVED_NAMES:
        raise Invalid([Problem("/name", f"The variable `{name}` is reserved; choose another name.")])


def _check_value(value: str) -> None:
    size = len(value.encode())
    if size > MAX_SECRET_BYTES:
        raise Invalid([Problem("/value", f"Longer than {MAX_SECRET_BYTES} bytes: it has {size}.")])
    if not masked_lines(value):
        detail = f"It has no line of at least {MIN_CHARACTERS} characters, so logs could not hide it."
        raise Invalid([Problem("/value", detail)])
