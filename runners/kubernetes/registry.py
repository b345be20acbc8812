"""Requests to an image registry: which image a name stands for.

The requests are those of https://github.com/opencontainers/distribution-spec.
"""

from __future__ import annotations

import base64
import re

import docker.auth
import requests
from docker.errors import DockerException

TIMEOUT_SECONDS = 10.0
MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
)  # fmt: skip
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class RegistryUnavailable(Exception):
    """The registry cannot be reached, or refuses to tell. The text says why."""


def image_digest(image: str, *, insecure: bool) -> str | None:
    """Return the digest of `host/name:tag` or `host/name@digest` in its registry.

    Returns None if the registry has no such image, and an empty text if it has it but does not tell the digest.
    `insecure` selects requests without TLS. The credentials are those of `docker login` or a credential helper, from
    `config.json` in the folder DOCKER_CONFIG, or else in `~/.docker`. Raises RegistryUnavailable.
    """
    host, _, path = image.partition("/")
    name, _, reference = path.partition("@") if "@" in path else path.rpartition(":")
    url = f"{'http' if insecure else 'https'}://{host}/v2/{name}/manifests/{reference}"
    headers = {"Accept": ", ".join(MANIFEST_TYPES)}
    secret = _credentials(host)
    try:
        response = requests.head(url, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=True)
        challenge = response.headers.get("WWW-Authenticate", "")
        if response.status_code == 401 and challenge.lower().startswith("basic") and secret:
            headers["Authorization"] = f"Basic {secret}"
            response = requests.head(url, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=True)
        elif response.status_code == 401 and challenge.lower().startswith("bearer"):
            headers["Authorization"] = f"Bearer {_bearer_token(challenge, secret)}"
            response = requests.head(url, headers=headers, timeout=TIMEOUT_SECONDS, allow_redirects=True)
    except (requests.RequestException, ValueError, KeyError) as error:
        raise RegistryUnavailable(f"the registry {host} cannot be reached: {error}") from None
    if response.status_code not in (200, 404):
        raise RegistryUnavailable(f"the registry {host} answers {response.status_code} to a request for {path}")
    if response.status_code == 404:
        return None
    digest = response.headers.get("Docker-Content-Digest", "")
    return digest if _DIGEST.fullmatch(digest) else ""


def repository_name(image: str) -> str:
    """Return an image's name without tag and digest, in one form for all names that mean the same repository.

    The host of Docker Hub and the default port are left out.
    """
    name = image.lower().partition("@")[0]
    folder, slash, last = name.rpartition("/")
    host, rest_slash, rest = f"{folder}{slash}{last.partition(':')[0]}".partition("/")
    host = host.removesuffix(":443")
    return rest if host in ("docker.io", "index.docker.io", "registry-1.docker.io") else f"{host}{rest_slash}{rest}"


def _bearer_token(challenge: str, secret: str | None) -> str:
    values = dict(_CHALLENGE.findall(challenge))
    params = {key: values[key] for key in ("service", "scope") if key in values}
    headers = {"Authorization": f"Basic {secret}"} if secret else {}
    response = requests.get(values["realm"], params=params, headers=headers, timeout=TIMEOUT_SECONDS)
    response.raise_for_status()
    body = response.json()
    return str(body.get("token") or body["access_token"])


def _credentials(host: str) -> str | None:
    """Return `user:password` in base64, from `docker login` or a credential helper.

    Returns None if neither knows the registry, or knows only an identity token.
    """
    try:
        entry = docker.auth.load_config().resolve_authconfig(host) or {}
    except (DockerException, ValueError) as error:
        raise RegistryUnavailable(f"the credentials for {host} cannot be read: {error}") from None
    user, password = (entry.get(name) or entry.get(name.title()) for name in ("username", "password"))
    return base64.b64encode(f"{user}:{password}".encode()).decode() if user and password else None
