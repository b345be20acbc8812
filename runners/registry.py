"""An image registry, asked whether it has an image: as https://github.com/opencontainers/distribution-spec says."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path

import requests

SECONDS = 10.0
KINDS = (
    "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
)  # fmt: skip
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class Unanswered(Exception):
    """The registry cannot be reached, or does not say; the text tells why."""


def has_image(image: str, *, insecure: bool) -> bool:
    """Whether the registry of `host/name:tag` has it; `insecure` = it is asked without TLS. Raises Unanswered.

    Credentials are what `docker login` has kept in the folder that DOCKER_CONFIG names, else in `~/.docker`."""
    host, _, path = image.partition("/")
    name, _, tag = path.rpartition(":")
    url = f"{'http' if insecure else 'https'}://{host}/v2/{name}/manifests/{tag}"
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
    return answer.status_code == 200


def _token(challenge: str, secret: str | None) -> str:
    told = dict(_CHALLENGE.findall(challenge))
    asked = {key: told[key] for key in ("service", "scope") if key in told}
    headers = {"Authorization": f"Basic {secret}"} if secret else {}
    answer = requests.get(told["realm"], params=asked, headers=headers, timeout=SECONDS)
    answer.raise_for_status()
    found = answer.json()
    return str(found.get("token") or found["access_token"])


def _secret_of(host: str) -> str | None:
    """`user:password` in base64; None where nothing is kept for the registry."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        kept = json.loads((folder / "config.json").read_text()).get("auths") or {}
    except (OSError, ValueError):
        return None
    entry = kept.get(host) or kept.get(f"https://{host}") or {}
    if entry.get("auth"):
        return str(entry["auth"])
    if entry.get("username"):
        return base64.b64encode(f"{entry['username']}:{entry.get('password', '')}".encode()).decode()
    return None
