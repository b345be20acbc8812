"""The servers that `polyjob login` has saved, in `~/.config/polyjob/config.toml`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyjob.atomic_files import atomic_file
from polyjob.cli.errors import UsageError
from polyjob.cli.suggestions import nearest

FIELDS = ("url", "token", "ca_file")


@dataclass(frozen=True)
class Profile:
    """A server with the token of its user."""

    name: str
    url: str
    token: str
    ca_file: str | None = None
    """File with the certificate of the authority that signed the server's certificate."""


def config_path() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "polyjob" / "config.toml"


def read_profiles() -> tuple[dict[str, Profile], str | None]:
    """Return the saved servers by name, and the name of the default one. Raises UsageError for an invalid file."""
    path = config_path()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    import tomllib

    try:
        document = tomllib.loads(text)
        servers = document.get("servers", {})
        return {name: _profile(name, values) for name, values in servers.items()}, document.get("default")
    except (tomllib.TOMLDecodeError, AttributeError, TypeError, KeyError) as error:
        raise UsageError(f"{path} is not valid: {error}. Correct it, or remove it and run `polyjob login`.") from None


def _profile(name: str, values: dict[str, Any]) -> Profile:
    if unknown := values.keys() - FIELDS:
        raise KeyError(f"unknown key `{min(unknown)}` of the server `{name}`")
    return Profile(name, str(values["url"]), str(values["token"]), values.get("ca_file"))


def find_profile(name: str | None) -> Profile | None:
    """Return the saved server of this name, or without a name, the default one or None.

    Raises UsageError if there is no server of this name.
    """
    profiles, default = read_profiles()
    name = name or default
    if name is None or name in profiles:
        return profiles.get(name) if name else None
    hint = f" Did you mean `{close}`?" if (close := nearest(name, profiles)) else ""
    raise UsageError(f"There is no saved server `{name}`.{hint} `polyjob login URL` saves one.")


def save_profile(profile: Profile) -> Path:
    """Save a server as the default one, and return the path of the file, which only its owner can read."""
    profiles, _ = read_profiles()
    path = config_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = [f"default = {_toml(profile.name)}"]
    for each in (profiles | {profile.name: profile}).values():
        lines += ["", f"[servers.{_toml(each.name)}]"]
        lines += [f"{field} = {_toml(value)}" for field in FIELDS if (value := getattr(each, field))]
    with atomic_file(path, mode=0o600) as file:
        file.write("\n".join([*lines, ""]).encode())
    return path


def _toml(text: str) -> str:
    """Return a text as a TOML string. TOML has the escapes of JSON."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
