"""An image registry, asked which image a name stands for.

The requests are those of https://github.com/opencontainers/distribution-spec.
"""

from __future__ import annotations

import base64
import re

import docker.auth
import requests
from docker.errors import DockerException

SECONDS = 10.0
KINDS = (
    "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
)  # fmt: skip
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class Unanswered(Exception):
    """The registry cannot be reached, or does not say; the text tells why."""


def digest_of(image: str, *, insecure: bool) -> str | None:
    """Return the digest of `host/name:tag` or `host/name@digest` in its registry: None where it has no such image,
    empty where it has and does not tell the digest. `insecure` = the registry is asked without TLS.

    Credentials are those that `docker login` or a credential helper keeps, as `config.json` says in the folder that
    DOCKER_CONFIG names, else in `~/.docker`. Raises Unanswered."""
    host, _, path = image.partition("/")
    name, _, reference = path.partition("@") if "@" in path else path.rpartition(":")
    url = f"{'http' if insecure else 'https'}://{host}/v2/{name}/manifests/{reference}"
    headers = {"Accept": ", ".join(KINDS)}
    secret = _secret_of(host)
    try:
        answer = requests.head(url, headers=headers, timeout=SECONDS, allow_redirects=True)
        challenge = answer.headers.get("WWW-Authenticate", "")
        if answer.status_code == 401 and challenge.lower().startswith("basic") and secret:
            headers["Authorization"] = f"Basic {secret}"
            answer = requests.head(url, headers=headers, timeout=SECONDS, allow_redirects=True)
        elif answer.status_code == 401 and challenge.lower().startswith("bearer"):
            headers["Authorization"] = f"Bearer {_token(challenge, secret)}"
            answer = requests.head(url, headers=headers, timeout=SECONDS, allow_redirects=True)
    except (requests.RequestException, ValueError, KeyError) as error:
        raise Unanswered(f"the registry {host} cannot be asked: {error}") from None
    if answer.status_code not in (200, 404):
        raise Unanswered(f"the registry {host} answers {answer.status_code} when asked for {path}")
    if answer.status_code == 404:
        return None
    digest = answer.headers.get("Docker-Content-Digest", "")
    return digest if _DIGEST.fullmatch(digest) else ""


def repository_of(image: str) -> str:
    """Return an image's name without tag and digest, written as all its names that mean the same: Docker Hub's host and
    the usual port are left out."""
    name = image.lower().partition("@")[0]
    folder, slash, last = name.rpartition("/")
    host, rest_slash, rest = f"{folder}{slash}{last.partition(':')[0]}".partition("/")
    host = host.removesuffix(":443")
    return rest if host in ("docker.io", "index.docker.io", "registry-1.docker.io") else f"{host}{rest_slash}{rest}"


def _token(challenge: str, secret: str | None) -> str:
    told = dict(_CHALLENGE.findall(challenge))
    asked = {key: told[key] for key in ("service", "scope") if key in told}
    headers = {"Authorization": f"Basic {secret}"} if secret else {}
    answer = requests.get(told["realm"], params=asked, headers=headers, timeout=SECONDS)
    answer.raise_for_status()
    found = answer.json()
    return str(found.get("token") or found["access_token"])


def _secret_of(host: str) -> str | None:
    """Return `user:password` in base64, as `docker login` or a credential helper keeps it. None if neither knows the
    registry, or knows an identity token only."""
    try:
        entry = docker.auth.load_config().resolve_authconfig(host) or {}
    except (DockerException, ValueError) as error:
        raise Unanswered(f"the credentials for {host} cannot be read: {error}") from None
    user, password = (entry.get(name) or entry.get(name.title()) for name in ("username", "password"))
    return base64.b64encode(f"{user}:{password}".encode()).decode() if user and password else None
