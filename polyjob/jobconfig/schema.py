"""The job's config: what a user writes, checked whole, to the one form that is stored.

Stored: `version` 1, `kind` `job`, and what was given; nothing that is null. Variables are a list of
`[name, value]` texts, tags a list, resources as `polyjob.jobconfig.resources` has them, params resolved. Which runner
honours what is not asked here.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from marshmallow import RAISE, Schema, ValidationError, fields, post_load, pre_load, validate, validates_schema

from polyjob.errors import Invalid, Problem
from polyjob.jobconfig.checks import (
    MAX_NAME_LENGTH,
    MAX_TAG_LENGTH,
    MAX_TEXT_LENGTH,
    SLUG_PATTERN,
    check_values,
    deserialize,
    shorten_key,
)
from polyjob.jobconfig.commands import normalize_commands, shell_text
from polyjob.jobconfig.parameters import render_config
from polyjob.jobconfig.resources import canonical_resources

CONFIG_VERSION, JOB_KIND, BUILD_KIND = 1, "job", "build"
UNSUPPORTED_KINDS = {
    "experiment": "experiments",
    "group": "groups of experiments",
    "notebook": "notebooks",
    "tensorboard": "TensorBoards",
    "pipeline": "pipelines",
    "project": "projects as configs",
}
"""Kinds of configs that Polyaxon had and polyjob has not."""
MAX_COMMAND_BYTES = 120_000
"""Linux passes no longer text to a program in one piece than 128 KiB."""
MAX_BUILD_STEP_BYTES = 128_000
"""Of one build step and all variables of the build, as a shell exports them: less than Linux passes in one piece, so
that any backend can run the step."""
MAX_VARIABLE_BYTES = 100_000
MAX_LIST_ITEMS = 1000
MAX_LINE_LENGTH = 1000
MAX_DURATION_SECONDS = 10 * 366 * 86_400
LOG_LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL")

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}\Z")
"""No shell has other names: most drop such a variable, and some end."""
MAX_IMAGE_LENGTH = 500
_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REGISTRY = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:[0-9]))(?::[0-9]{1,5})?/"
_TAG, _DIGEST = r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", r"@[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-f]{32,128}"
_IMAGE = re.compile(rf"(?:{_REGISTRY})?{_PART}(?:/{_PART})*(?:{_TAG})?(?:{_DIGEST})?\Z")
"""As https://github.com/distribution/reference writes it down."""


def _bytes_at_most(limit: int) -> Any:
    def check(text: str) -> None:
        if len(text.encode()) > limit:
            raise ValidationError(f"Longer than {limit} bytes.")

    return check


def _not_blank(text: str) -> None:
    if not text.strip():
        raise ValidationError("Must not be blank.")


class Line(fields.String):
    """Text of some length, but not blank."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(validate=[_not_blank, validate.Length(max=MAX_LINE_LENGTH)], **kwargs)


class WholeNumber(fields.Integer):
    """A whole number that any database takes."""

    def __init__(self, least: int = 0, most: int = 1 << 40, **kwargs: Any) -> None:
        super().__init__(strict=True, validate=validate.Range(min=least, max=most), **kwargs)

    def _validated(self, value: Any) -> Any:
        if isinstance(value, (bool, str)):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Seconds(fields.Float):
    def __init__(self, least: float = 0, **kwargs: Any) -> None:
        super().__init__(validate=validate.Range(min=least, max=MAX_DURATION_SECONDS), **kwargs)

    def _validated(self, value: Any) -> Any:
        if isinstance(value, (bool, str)):
            raise self.make_error("invalid", input=value)
        number = super()._validated(value)
        return int(number) if number is not None and number == int(number) else number


class BoundedList(fields.List):
    """A list of bounded length."""

    def __init__(self, item: Any, **kwargs: Any) -> None:
        super().__init__(item, validate=validate.Length(max=MAX_LIST_ITEMS), **kwargs)


class Variables(fields.Field[Any]):
    """Pairs of name and value; a mapping does as well."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[list[str]]:
        pairs = [list(pair) for pair in value.items()] if isinstance(value, Mapping) else value
        if not isinstance(pairs, list):
            raise ValidationError("Not a list of [name, value] pairs.")
        if len(pairs) > MAX_LIST_ITEMS:
            raise ValidationError(f"More than {MAX_LIST_ITEMS} variables.")
        keys = list(value) if isinstance(value, Mapping) else range(len(pairs))
        errors: dict[Any, list[str]] = {}
        loaded = []
        for key, pair in zip(keys, pairs, strict=True):
            try:
                loaded.append(_variable(pair))
            except ValueError as error:
                errors[key] = [str(error)]
        if errors:
            raise ValidationError(errors)
        return loaded


def _variable(pair: Any) -> list[str]:
    """Raises ValueError with a sentence."""
    if not isinstance(pair, list) or len(pair) != 2:
        raise ValueError("Not a pair of name and value.")
    name, value = pair
    if not isinstance(name, str) or not _VARIABLE.match(name):
        raise ValueError(
            f"`{shorten_key(name)}` is not a valid variable name: use up to 255 letters, digits and `_`,"
            " and do not begin with a digit."
        )
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, (int, float)):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"The value of `{name}` is not text.")
    if len(value.encode()) > MAX_VARIABLE_BYTES:
        raise ValueError(f"The value of `{name}` is longer than {MAX_VARIABLE_BYTES} bytes.")
    return [name, value]


class Command(fields.Field[Any]):
    """Shell text, or a list of it."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str | list[str]:
        lines = [value] if isinstance(value, str) else value
        if not isinstance(lines, list) or not lines or not all(isinstance(line, str) for line in lines):
            raise ValidationError("Not shell text, nor a list of such texts with at least one in it.")
        blank = {index: ["Must not be blank."] for index, line in enumerate(lines) if not line.strip()}
        if blank:
            raise ValidationError(blank if value is lines else "Must not be blank.")
        _bytes_at_most(MAX_COMMAND_BYTES)(shell_text(value))
        return list(lines) if value is lines else value


class Resources(fields.Field[Any]):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        return canonical_resources(value)


class ReferenceField(fields.Field[Any]):
    """A name, or a number that stands for a thing."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int | str:
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return value
        if isinstance(value, str) and value.strip() and len(value) <= MAX_LINE_LENGTH:
            return value
        raise ValidationError("Neither a name nor a number.")


class Version(fields.Field[Any]):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if isinstance(value, bool) or value != CONFIG_VERSION:
            raise ValidationError("Must be the number 1.")
        return CONFIG_VERSION


class Tags(fields.List):
    """Texts without repetition, in the order first seen; one text does as well."""

    def __init__(self, **kwargs: Any) -> None:
        tag = fields.String(validate=[_not_blank, validate.Length(max=MAX_TAG_LENGTH)])
        super().__init__(tag, validate=validate.Length(max=MAX_LIST_ITEMS), **kwargs)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        loaded = super()._deserialize([value] if isinstance(value, str) else value, attr, data, **kwargs)
        return list(dict.fromkeys(loaded))


class Section(Schema):
    """A part of the config: null counts as not given, and a key that it does not know is an error."""

    class Meta:
        unknown = RAISE

    error_messages = {"type": "Not an object."}

    @pre_load
    def _drop_nulls(self, data: Any, **kwargs: Any) -> Any:
        return {key: value for key, value in data.items() if value is not None} if isinstance(data, Mapping) else data

    @post_load
    def _drop_empty(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {key: value for key, value in data.items() if value not in ({}, [])}


class LoggingSchema(Section):
    level = fields.String(validate=validate.OneOf(LOG_LEVELS))
    formatter = Line()


class BuildSchema(Section):
    image = fields.String()
    build_steps = BoundedList(fields.String(validate=[_not_blank, _bytes_at_most(MAX_COMMAND_BYTES)]))
    env_vars = Variables()
    nocache = fields.Boolean(truthy={True}, falsy={False})
    commit = Line()
    ref = ReferenceField()
    branch = Line()
    git = Line()
    dockerfile = Line()
    context = Line()
    lang_env = Line()
    backend = Line()

    @validates_schema(skip_on_field_errors=False)
    def _one_source(self, data: dict[str, Any], **kwargs: Any) -> None:
        image = data.get("image")
        if image is not None and not (len(image) <= MAX_IMAGE_LENGTH and _IMAGE.match(image)):
            raise ValidationError(f"Invalid docker image `{image[:100]}`.", "image")
        if image is not None and "dockerfile" in data:
            raise ValidationError("Give either `image` or `dockerfile`, not both.", "dockerfile")

    @validates_schema
    def _fits_together(self, data: dict[str, Any], **kwargs: Any) -> None:
        variables = sum(
            len(f"export {name}={shlex.quote(value)}\n".encode()) for name, value in data.get("env_vars", ())
        )
        for index, step in enumerate(data.get("build_steps", ())):
            size = variables + len(step.encode())
            if variables and size > MAX_BUILD_STEP_BYTES:
                detail = (
                    f"The step and the build's variables have {size} bytes; at most {MAX_BUILD_STEP_BYTES} are allowed."
                )
                raise ValidationError({"build_steps": {index: [detail]}})


class RunSchema(Section):
    cmd = Command(required=True, error_messages={"required": "The command is missing."})


class PersistenceSchema(Section):
    data = BoundedList(Line())
    outputs = Line()


class OutputsSchema(Section):
    jobs = BoundedList(ReferenceField())
    experiments = BoundedList(ReferenceField())


def _texts() -> fields.Dict:
    return fields.Dict(
        keys=Line(),
        values=fields.String(validate=validate.Length(max=MAX_TEXT_LENGTH)),
        validate=validate.Length(max=MAX_LIST_ITEMS),
    )


class EnvironmentSchema(Section):
    env_vars = Variables()
    resources = Resources()
    node_selector = _texts()
    affinity = fields.Dict(keys=fields.String())
    tolerations = BoundedList(fields.Dict(keys=fields.String()))
    persistence = fields.Nested(PersistenceSchema)
    outputs = fields.Nested(OutputsSchema)
    secret_refs = BoundedList(Line())
    configmap_refs = BoundedList(Line())
    config_map_refs = BoundedList(Line())
    data_refs = BoundedList(Line())
    artifact_refs = BoundedList(Line())
    max_restarts = WholeNumber()
    service_account = Line()
    image_pull_secrets = BoundedList(Line())
    labels = _texts()
    annotations = _texts()
    index = WholeNumber()


class TerminationSchema(Section):
    timeout = Seconds()
    grace = Seconds()
    ttl = WholeNumber()
    max_retries = WholeNumber()
    restart_policy = Line()


class ConfigSchema(Section):
    version = Version()
    kind = fields.String(validate=validate.Equal(JOB_KIND))
    name = fields.String(validate=[validate.Regexp(SLUG_PATTERN, error="Only letters, digits, `-` and `_`."),
                                   validate.Length(max=MAX_NAME_LENGTH)])  # fmt: skip
    description = fields.String(validate=validate.Length(max=MAX_TEXT_LENGTH))
    tags = Tags()
    logging = fields.Nested(LoggingSchema)
    framework = Line()
    backend = Line()
    params = fields.Dict(keys=fields.String())
    inputs = fields.List(fields.Dict(keys=fields.String()))
    outputs = fields.List(fields.Dict(keys=fields.String()))
    build = fields.Nested(BuildSchema)
    environment = fields.Nested(EnvironmentSchema)
    termination = fields.Nested(TerminationSchema)
    run = fields.Nested(
        RunSchema, required=True, error_messages={"required": "`run` is missing: the command that the job runs."}
    )


CONFIG_SCHEMA = ConfigSchema()
"""Made once: making it takes longer than using it."""


class BuildConfigSchema(ConfigSchema):
    """A document of kind `build`: its section `build`, or the members of that section right in the document."""

    class Meta(Section.Meta):
        exclude = ("run", "termination")

    kind = fields.String(validate=validate.Equal(BUILD_KIND))
    build = fields.Nested(
        BuildSchema, required=True, error_messages={"required": "`build` is missing: what is to be built."}
    )

    @pre_load
    def _gather(self, data: Any, **kwargs: Any) -> Any:
        flat = {key: value for key, value in data.items() if key in _OF_BUILD and value is not None}
        if not flat or data.get("build") is not None:
            return data
        return {key: value for key, value in data.items() if key not in flat} | {"build": flat}


_BUILD_CONFIG = BuildConfigSchema()
_OF_BUILD = BuildSchema().fields.keys() - {"backend"}
BUILD_KEYS = _OF_BUILD | {"build"}
"""Keys that begin a build's config."""


def load_config(document: Any, pointer: str = "/config") -> dict[str, Any]:
    """The canonical form of a config, its params put in. Raises Invalid with every problem, each with a pointer below
    `pointer`."""
    if not isinstance(document, Mapping):
        raise Invalid([Problem(pointer, "A config is an object with `run`, and `build` where something is built.")])
    return _load(CONFIG_SCHEMA, JOB_KIND, BUILD_KIND, document, pointer)


def load_build_config(document: Any, pointer: str = "/config") -> dict[str, Any]:
    """As `load_config`, for a document of kind `build`."""
    if not isinstance(document, Mapping):
        raise Invalid([Problem(pointer, "A config is an object with `build`.")])
    return _load(_BUILD_CONFIG, BUILD_KIND, JOB_KIND, document, pointer)


def _load(schema: Schema, kind: str, other: str, document: Mapping[str, Any], pointer: str) -> dict[str, Any]:
    given = document.get("kind")
    if isinstance(given, str) and given in UNSUPPORTED_KINDS:
        raise Invalid(
            [Problem(f"{pointer}/kind", f"polyjob runs jobs, not {UNSUPPORTED_KINDS[given]}. Use `kind: job`.")]
        )
    if given == other:
        detail = f"A config of kind `{other}` makes a {other}, not a {kind}: send it to the project's `{other}s`."
        raise Invalid([Problem(f"{pointer}/kind", detail)])
    check_values(document, pointer)
    loaded: dict[str, Any] = deserialize(schema, render_config(normalize_commands(document), pointer), pointer)
    return {"version": CONFIG_VERSION, "kind": kind} | loaded
