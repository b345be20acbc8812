"""The schemas of job and build configs, section by section. `validation` applies them.

Whether a runner honours a part is not checked here; see `polyjob.services.specs`.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from marshmallow import ValidationError, fields, pre_load, validate, validates_schema

from polyjob.jobconfig.checks import MAX_NAME_LENGTH, MAX_TEXT_LENGTH, SLUG_PATTERN
from polyjob.jobconfig.fields import (
    MAX_COMMAND_BYTES,
    BoundedList,
    Command,
    FolderPath,
    Reference,
    Resources,
    RetryFactor,
    Seconds,
    Section,
    ShortText,
    Tags,
    TextMap,
    UniqueNames,
    Variables,
    WholeNumber,
    max_bytes,
    not_blank,
)
from runners.base import Reason

CONFIG_VERSION, JOB_KIND, BUILD_KIND = 1, "job", "build"
MAX_BUILD_STEP_BYTES = 128_000
"""Bytes of one build step and all variables of the build, as a shell exports them.

This is less than Linux passes in one argument, so every backend can run the build step.
"""
MAX_IMAGE_LENGTH = 500
MAX_OUTPUTS_JOBS = 100
"""Earlier jobs whose outputs one job reads."""
MAX_RETRIES = 100
"""Retries of one job."""
MAX_RETRY_RULES = 20
RETRY_REASONS = tuple(str(reason) for reason in Reason)
"""The reasons of a failure, as in `exit.reason` of a job."""
LOG_LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL")

_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REGISTRY = r"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:[0-9]))(?::[0-9]{1,5})?/"
_TAG, _DIGEST = r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", r"@[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-f]{32,128}"
_IMAGE = re.compile(rf"(?:{_REGISTRY})?{_PART}(?:/{_PART})*(?:{_TAG})?(?:{_DIGEST})?\Z")
"""The grammar of https://github.com/distribution/reference."""


class Version(fields.Field[Any]):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> int:
        if isinstance(value, bool) or value != CONFIG_VERSION:
            raise ValidationError("Must be the number 1.")
        return CONFIG_VERSION


class LoggingSchema(Section):
    level = fields.String(validate=validate.OneOf(LOG_LEVELS))
    formatter = ShortText()


class BuildSchema(Section):
    image = fields.String()
    build_steps = BoundedList(fields.String(validate=[not_blank, max_bytes(MAX_COMMAND_BYTES)]))
    env_vars = Variables()
    nocache = fields.Boolean(truthy={True}, falsy={False})
    commit = ShortText()
    ref = Reference()
    branch = ShortText()
    git = ShortText()
    dockerfile = ShortText()
    context = ShortText()
    lang_env = ShortText()
    backend = ShortText()

    @validates_schema(skip_on_field_errors=False)
    def _check_image(self, data: dict[str, Any], **kwargs: Any) -> None:
        image = data.get("image")
        if image is not None and not (len(image) <= MAX_IMAGE_LENGTH and _IMAGE.match(image)):
            raise ValidationError(f"Invalid docker image `{image[:100]}`; write a name such as `python:3.12`.", "image")
        if image is not None and "dockerfile" in data:
            raise ValidationError("Give either `image` or `dockerfile`, not both.", "dockerfile")

    @validates_schema
    def _check_build_step_sizes(self, data: dict[str, Any], **kwargs: Any) -> None:
        variables = sum(
            len(f"export {name}={shlex.quote(value)}\n".encode()) for name, value in data.get("env_vars", ())
        )
        for index, step in enumerate(data.get("build_steps", ())):
            size = variables + len(step.encode())
            if variables and size > MAX_BUILD_STEP_BYTES:
                detail = (
                    f"The build step and the build's variables have {size} bytes; at most {MAX_BUILD_STEP_BYTES}"
                    " are allowed."
                )
                raise ValidationError({"build_steps": {index: [detail]}})


class RunSchema(Section):
    cmd = Command(required=True, error_messages={"required": "`cmd` is missing: the shell text that the job runs."})


class PersistenceSchema(Section):
    data = UniqueNames()
    outputs = ShortText()


class OutputsSchema(Section):
    jobs = fields.List(Reference(), validate=validate.Length(max=MAX_OUTPUTS_JOBS))
    experiments = BoundedList(Reference())


class EnvironmentSchema(Section):
    env_vars = Variables()
    workdir = FolderPath()
    resources = Resources()
    node_selector = TextMap()
    affinity = fields.Dict(keys=fields.String())
    tolerations = BoundedList(fields.Dict(keys=fields.String()))
    persistence = fields.Nested(PersistenceSchema)
    outputs = fields.Nested(OutputsSchema)
    secret_refs = BoundedList(ShortText())
    configmap_refs = BoundedList(ShortText())
    config_map_refs = BoundedList(ShortText())
    data_refs = UniqueNames()
    artifact_refs = BoundedList(ShortText())
    max_restarts = WholeNumber()
    service_account = ShortText()
    image_pull_secrets = BoundedList(ShortText())
    labels = TextMap()
    annotations = TextMap()
    index = WholeNumber()

    @validates_schema(skip_on_field_errors=False)
    def _check_volumes(self, data: dict[str, Any], **kwargs: Any) -> None:
        if data.get("data_refs") and (data.get("persistence") or {}).get("data"):
            raise ValidationError("Name the volumes in `data_refs` or in `persistence.data`, not in both.", "data_refs")


class RetryConditionSchema(Section):
    exit = WholeNumber(minimum=1, maximum=255)
    reason = fields.String(validate=validate.OneOf(RETRY_REASONS))

    @validates_schema(skip_on_field_errors=True)
    def _check_subject(self, data: dict[str, Any], **kwargs: Any) -> None:
        if len(data) != 1:
            raise ValidationError("Give either `exit` or `reason`.")


class RetryRuleSchema(Section):
    on = BoundedList(fields.Nested(RetryConditionSchema))
    times = WholeNumber(maximum=MAX_RETRIES)
    delay = Seconds()
    factor = RetryFactor()
    max_delay = Seconds()
    resume = fields.Boolean(truthy={True}, falsy={False})


class TerminationSchema(Section):
    timeout = Seconds()
    grace = Seconds()
    ttl = WholeNumber()
    max_retries = WholeNumber(maximum=MAX_RETRIES)
    retry = fields.List(fields.Nested(RetryRuleSchema), validate=validate.Length(max=MAX_RETRY_RULES))
    restart_policy = ShortText()

    @validates_schema(skip_on_field_errors=True)
    def _check_times(self, data: dict[str, Any], **kwargs: Any) -> None:
        if "max_retries" in data:
            return
        missing = {
            index: {"times": ["Give `times`, or `max_retries` beside `retry`."]}
            for index, rule in enumerate(data.get("retry", ()))
            if "times" not in rule
        }
        if missing:
            raise ValidationError({"retry": missing})


class ConfigSchema(Section):
    version = Version()
    kind = fields.String(validate=validate.Equal(JOB_KIND))
    name = fields.String(validate=[validate.Regexp(SLUG_PATTERN, error="Only letters, digits, `-` and `_`."),
                                   validate.Length(max=MAX_NAME_LENGTH)])  # fmt: skip
    description = fields.String(validate=validate.Length(max=MAX_TEXT_LENGTH))
    tags = Tags()
    logging = fields.Nested(LoggingSchema)
    framework = ShortText()
    backend = ShortText()
    params = fields.Dict(keys=fields.String())
    inputs = fields.List(fields.Dict(keys=fields.String()))
    outputs = fields.List(fields.Dict(keys=fields.String()))
    build = fields.Nested(BuildSchema)
    environment = fields.Nested(EnvironmentSchema)
    termination = fields.Nested(TerminationSchema)
    run = fields.Nested(
        RunSchema,
        required=True,
        error_messages={"required": "`run` is missing: it has the command, `cmd`."},
    )


CONFIG_SCHEMA = ConfigSchema()
"""Created once, because creating a schema takes longer than using it."""


class BuildConfigSchema(ConfigSchema):
    """A document of kind `build`. It has a section `build`, or the keys of that section itself."""

    class Meta(Section.Meta):
        exclude = ("run", "termination")

    kind = fields.String(validate=validate.Equal(BUILD_KIND))
    build = fields.Nested(
        BuildSchema,
        required=True,
        error_messages={"required": "`build` is missing: it has the `image` or the `build_steps`."},
    )

    @pre_load
    def _collect_build(self, data: Any, **kwargs: Any) -> Any:
        flat = {key: value for key, value in data.items() if key in _SECTION_KEYS and value is not None}
        if not flat or data.get("build") is not None:
            return data
        return {key: value for key, value in data.items() if key not in flat} | {"build": flat}


BUILD_CONFIG_SCHEMA = BuildConfigSchema()
_SECTION_KEYS = BuildSchema().fields.keys() - {"backend"}
BUILD_KEYS = _SECTION_KEYS | {"build"}
"""Keys that mark a document as the config of a build."""
