"""Values of settings: how the text of each kind of variable is read, and how documents describe the kind."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polyjob.webhook_urls import parse_url
from runners.kubernetes.options import read_resources
from runners.volumes import CLAIM_PREFIX, READ_ONLY, READ_WRITE, Volume

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
_UNITS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": GIB << 10}

_ADDRESS = re.compile(
    r"(?P<origin>https?://(?:\[[0-9a-z:.%]+\]|[-0-9a-z._~]+)(?::(?P<port>\d+))?)(?P<path>(?:/[-0-9a-z._~]+)*)/*",
    re.IGNORECASE,
)


MAX_VOLUMES = 100
"""Volumes of a server."""
MAX_VOLUME_NAME_LENGTH = 63
_VOLUME_NAME = re.compile(r"[A-Za-z0-9][-_A-Za-z0-9]*")
_CLAIM_NAME = re.compile(r"[a-z0-9](?:[-.a-z0-9]{0,251}[a-z0-9])?")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")


class InvalidValue(ValueError):
    """The text of a setting is not valid. The message is a clause with the reason."""


# Each function below raises ValueError, KeyError or IndexError for a text that is not valid.


def read_text(value: str) -> str:
    return value


def read_non_negative(value: str) -> int:
    number = int(value)
    if number < 0:
        raise ValueError
    return number


def read_positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError
    return number


def read_port(value: str) -> int:
    number = int(value)
    if not 0 <= number <= 65535:
        raise ValueError
    return number


def read_seconds(value: str) -> float:
    number = float(value)
    if not 0 <= number < 1e9:
        raise ValueError
    return number


def read_size(value: str) -> int:
    text = value.strip().upper().removesuffix("B").removesuffix("I")
    unit = text[-1:] if text[-1:] in "KMGT" else ""
    number = float(text.removesuffix(unit)) * _UNITS[unit]
    if not 0 <= number < 1 << 60:
        raise ValueError
    return int(number)


def read_yes_no(value: str) -> bool:
    answers = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    return answers[value.lower()]


def read_words(value: str) -> tuple[str, ...]:
    return tuple(value.replace(",", " ").split())


@dataclass(frozen=True)
class SlotsByRunner:
    """A number of slots for each of some runners. Its text is that of the setting."""

    numbers: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        return " ".join(f"{name}={number}" for name, number in self.numbers)


def read_slots(value: str) -> int | SlotsByRunner:
    if "=" not in value:
        return read_positive(value)
    pairs = [word.partition("=") for word in read_words(value)]
    numbers = {name: read_positive(number) for name, _, number in pairs if name}
    if len(numbers) < len(pairs):
        raise ValueError
    return SlotsByRunner(tuple(numbers.items()))


def read_indices(value: str) -> tuple[int, ...]:
    return () if value == "none" else tuple(dict.fromkeys(map(read_non_negative, read_words(value))))


def read_volumes(value: str) -> tuple[Volume, ...]:
    """Read volumes such as `data=/srv/data:ro models=claim:models:rw`, or `none`. Raises InvalidValue."""
    volumes = [_read_volume(word) for word in value.split()] if value != "none" else []
    names = [volume.name for volume in volumes]
    repeated = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if repeated:
        raise InvalidValue(f"the name `{repeated[0]}` is given to more than one volume")
    if len(volumes) > MAX_VOLUMES:
        raise InvalidValue(f"it has {len(volumes)} volumes; at most {MAX_VOLUMES} are allowed")
    return tuple(volumes)


def _read_volume(word: str) -> Volume:
    """Read one volume. Without `:ro` or `:rw` it is read-only, because a job can do less harm then."""
    name, equals, source = word.partition("=")
    path, _, access = source.rpartition(":")
    if access in (READ_ONLY, READ_WRITE):
        source = path
    is_claim = source.startswith(CLAIM_PREFIX)
    if not equals:
        raise InvalidValue(f"`{word}` has no `=`; write a name and a folder, such as `data=/srv/data:ro`")
    if not _VOLUME_NAME.fullmatch(name) or len(name) > MAX_VOLUME_NAME_LENGTH:
        raise InvalidValue(
            f"`{name}` is not a valid name of a volume: use up to {MAX_VOLUME_NAME_LENGTH} letters, digits, `-` and "
            "`_`, and begin with a letter or digit"
        )
    if is_claim:
        source = source.removeprefix(CLAIM_PREFIX)
        if not _CLAIM_NAME.fullmatch(source):
            raise InvalidValue(f"`{source}` is not a valid name of a persistent volume claim")
    elif not source.startswith("/") or ".." in source.split("/") or _CONTROL_CHARACTER.search(source):
        raise InvalidValue(f"`{source}` is not an absolute path without `..`; a claim begins with `{CLAIM_PREFIX}`")
    else:
        source = source.rstrip("/") or "/"
    return Volume(name, source, is_read_only=access != READ_WRITE, is_claim=is_claim)


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


def read_file(value: str) -> str:
    return str(absolute_path(value)) if value else ""


def read_address(value: str) -> str:
    if not value:
        return ""
    match = _ADDRESS.fullmatch(value)
    if not match or {".", ".."} & set(match["path"].split("/")):
        raise ValueError
    if match["port"]:
        read_port(match["port"])
    return match["origin"].lower() + match["path"]


def read_webhook_url(value: str) -> str:
    if value:
        parse_url(value)
    return value


def read_webhook_secret(value: str) -> str:
    key = base64.b64decode(value.removeprefix("whsec_"), validate=True)
    if value and not (value.startswith("whsec_") and 24 <= len(key) <= 64):
        raise ValueError
    return value


Reader = Callable[[str], Any]

KINDS: dict[Reader, str] = {
    read_text: "text",
    read_non_negative: "a whole number, 0 or more",
    read_positive: "a whole number, 1 or more",
    read_port: "a port, 0 to 65535",
    read_seconds: "seconds",
    read_size: "bytes, or a number with K, M, G or T",
    read_yes_no: "yes or no",
    read_slots: "a whole number, 1 or more, or words such as `process=4 docker=2`",
    read_words: "names, separated by blanks or commas",
    read_indices: "indices, separated by blanks or commas, or `none`",
    absolute_path: "a path",
    read_volumes: "words such as `data=/srv/data:ro` or `models=claim:models:rw`",
    read_resources: "words such as `limits.cpu=200m`, or `none`",
    read_file: "the path of a file",
    read_address: "`http://` or `https://`, a host, and possibly a path",
    read_webhook_url: "a URL that begins with `http://` or `https://`",
    read_webhook_secret: "`whsec_` and 24 to 64 bytes in Base64",
}
