"""The machine in responses, as a cluster."""

from __future__ import annotations

from marshmallow import Schema, fields


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
