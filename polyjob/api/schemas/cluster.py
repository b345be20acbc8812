"""The machine in responses, as a cluster."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from polyjob.api.schemas.common import Body
from polyjob.services.capacity import MAX_GPU_INDEX, MAX_GPUS, MAX_SLOTS


class ClusterNodeSchema(Schema):
    """A node in a list."""

    uuid = fields.String()
    sequence = fields.Integer()
    name = fields.String()
    hostname = fields.String()
    role = fields.String()
    memory = fields.Integer(metadata={"description": "Bytes."})
    cpu = fields.Float(metadata={"description": "Cores."})
    n_gpus = fields.Integer()


class GraphicsSchema(Schema):
    """A GPU."""

    uuid = fields.String()
    index = fields.Integer()
    serial = fields.String()
    name = fields.String()
    memory = fields.Integer(metadata={"description": "Bytes."})
    cluster_node = fields.String()


class ClusterSchema(Schema):
    uuid = fields.String(metadata={"description": "Id of the installation."})
    version_api = fields.Dict(keys=fields.String(), values=fields.String())
    created_at = fields.String()
    updated_at = fields.String()
    nodes = fields.List(fields.Nested(ClusterNodeSchema))


class NodeSchema(ClusterNodeSchema):
    """A node with all its fields."""

    gpus = fields.List(fields.Nested(GraphicsSchema))
    docker_version = fields.String(allow_none=True)
    kubelet_version = fields.String(allow_none=True)
    os_image = fields.String()
    kernel_version = fields.String()
    schedulable_taints = fields.Boolean()
    schedulable_state = fields.Boolean()
    status = fields.String()
    is_current = fields.Boolean()


class RunnerSlotsSchema(Schema):
    """The slots of one runner."""

    value = fields.Integer(metadata={"description": "Maximum number of jobs that run at once. With 0, none starts."})
    default = fields.Integer(metadata={"description": "The number of `POLYJOB_SLOTS`."})
    is_default = fields.Boolean(metadata={"description": "False if an administrator has changed the number."})
    used = fields.Integer(metadata={"description": "Jobs that hold a slot. It can be above a lowered number."})


class UsableGpusSchema(Schema):
    """The GPUs that jobs may use."""

    value = fields.List(fields.Integer())
    default = fields.List(fields.Integer(), metadata={"description": "The GPUs of `POLYJOB_GPUS`."})
    is_default = fields.Boolean(metadata={"description": "False if an administrator has changed the list."})
    used = fields.List(fields.Integer(), metadata={"description": "GPUs that jobs hold."})


class CapacitySchema(Schema):
    """The jobs that can run at once."""

    slots = fields.Dict(
        keys=fields.String(), values=fields.Nested(RunnerSlotsSchema), metadata={"description": "Slots by runner."}
    )
    gpus = fields.Nested(UsableGpusSchema)


class VolumeSchema(Schema):
    """A folder or claim of the server that jobs can use by its name."""

    name = fields.String()
    is_read_only = fields.Boolean()
    paths = fields.Dict(
        keys=fields.String(),
        values=fields.String(),
        metadata={"description": "Path in a job, by the runner of the job. A runner that is missing cannot use it."},
    )


class CapacityBody(Body):
    """Changes of the capacity. Fields and runners that are not sent keep their value."""

    slots = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(strict=True, allow_none=True, validate=validate.Range(0, MAX_SLOTS)),
        metadata={"description": "Number of slots by runner. Null restores the default, of a runner or of all."},
    )
    gpus = fields.List(
        fields.Integer(strict=True, validate=validate.Range(0, MAX_GPU_INDEX)),
        validate=validate.Length(max=MAX_GPUS),
        metadata={"description": "Indices of the GPUs that jobs may use. Null restores the default."},
    )
