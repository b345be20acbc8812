"""The machine that polyjob runs on, in the form of the documented API: a cluster of one node.

All users see the volumes that jobs can use; the rest is for administrators.
"""

from __future__ import annotations

import os
import platform
import socket
import uuid
from typing import Any

import polyjob
from polyjob.api.blueprint import Blueprint
from polyjob.api.paging import limit, offset, page
from polyjob.api.request_body import read_body
from polyjob.api.request_context import settings
from polyjob.api.schemas.cluster import (
    CapacityBody,
    CapacitySchema,
    ClusterNodeSchema,
    ClusterSchema,
    GraphicsSchema,
    NodeSchema,
    VolumeSchema,
)
from polyjob.api.schemas.common import load_body
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Meta
from polyjob.errors import NotFound
from polyjob.services import capacity, job_queue, volumes
from polyjob.services.capacity import Capacity

blp = Blueprint("cluster", __name__, description="The machine that polyjob runs on.")


@blp.get("/cluster")
@blp.response(200, ClusterSchema)
@requires(Access.ADMINISTRATOR)
def get_cluster() -> dict[str, Any]:
    """Get the cluster, which has one node: this machine; for administrators"""
    meta = {row.key: row.value for row in Meta.select()}
    version = {"major": "0", "minor": "6", "platform": f"polyjob {polyjob.__version__}"}
    times = {"created_at": meta["made_at"], "updated_at": meta["made_at"]}
    return {"uuid": meta["installation"], "version_api": version, "nodes": [_node()]} | times


@blp.get("/cluster/capacity")
@blp.response(200, CapacitySchema)
@requires(Access.ADMINISTRATOR)
def get_capacity() -> dict[str, Any]:
    """Get the slots and GPUs that jobs may use; for administrators"""
    return capacity_view(capacity.read(settings()))


@blp.patch("/cluster/capacity")
@blp.reads(CapacityBody)
@blp.response(200, CapacitySchema)
@requires(Access.ADMINISTRATOR)
def update_capacity() -> dict[str, Any]:
    """Change the slots and GPUs that jobs may use, while the server runs; for administrators

    The change stays after a restart. It stops no running job.
    """
    return capacity_view(capacity.change(settings(), load_body(CapacityBody(), read_body())))


def capacity_view(current: Capacity) -> dict[str, Any]:
    """Return the capacity with its defaults, and what jobs use of it."""
    used = job_queue.slots_taken()
    return {
        "slots": {
            name: {
                "value": current.slots_of(name),
                "default": current.settings.slots_of(name),
                "is_default": name not in current.changes.slots,
                "used": used[name],
            }
            for name in current.settings.runner_names
        },
        "gpus": {
            "value": current.gpus,
            "default": current.settings.gpus,
            "is_default": current.changes.gpus is None,
            "used": sorted(job_queue.gpus_taken()),
        },
    }


@blp.get("/cluster/volumes")
@blp.page(VolumeSchema)
@requires(Access.READ)
def list_volumes() -> dict[str, Any]:
    """List the volumes that jobs can use

    A job names them in `environment.data_refs` of its config.
    """
    views = [
        {"name": volume.name, "is_read_only": volume.is_read_only, "paths": paths}
        for volume, paths in volumes.list_volumes(settings())
    ]
    return page(views[offset() : offset() + limit()], len(views))


@blp.get("/cluster/nodes")
@blp.page(ClusterNodeSchema)
@requires(Access.ADMINISTRATOR)
def list_nodes() -> dict[str, Any]:
    """List the nodes: this machine; for administrators"""
    return page([_node()][offset() : offset() + limit()], 1)


@blp.get("/nodes/<int:number>")
@blp.response(200, NodeSchema)
@requires(Access.ADMINISTRATOR)
def get_node(number: int) -> dict[str, Any]:
    """Get a node: this machine is number 1; for administrators"""
    _require_first_node(number)
    return _node() | {
        "gpus": _gpus(),
        "docker_version": None,
        "kubelet_version": None,
        "os_image": platform.platform(),
        "kernel_version": platform.release(),
        "schedulable_taints": True,
        "schedulable_state": True,
        "status": "ready",
        "is_current": True,
    }


@blp.get("/nodes/<int:number>/gpus")
@blp.page(GraphicsSchema)
@requires(Access.ADMINISTRATOR)
def list_graphics(number: int) -> dict[str, Any]:
    """List the GPUs of a node that jobs can use; for administrators"""
    _require_first_node(number)
    gpus = _gpus()
    return page(gpus[offset() : offset() + limit()], len(gpus))


def _require_first_node(number: int) -> None:
    if number != 1:
        raise NotFound("Not found.")


def _node() -> dict[str, Any]:
    name = socket.gethostname()
    return {
        "uuid": uuid.uuid5(uuid.NAMESPACE_DNS, name).hex,
        "sequence": 1,
        "name": name,
        "hostname": name,
        "role": "master",
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "cpu": len(os.sched_getaffinity(0)),
        "n_gpus": len(capacity.read(settings()).gpus),
    }


def _gpus() -> list[dict[str, Any]]:
    """Return the GPUs that jobs may use, without their model and memory, which the server does not know."""
    node = _node()["uuid"]
    return [
        {
            "uuid": uuid.uuid5(uuid.UUID(node), str(index)).hex,
            "index": index,
            "serial": "",
            "name": f"GPU {index}",
            "memory": 0,
            "cluster_node": node,
        }
        for index in capacity.read(settings()).gpus
    ]
