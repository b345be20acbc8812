"""The machine that polyjob runs on, as the documented API shows a cluster: one node. For administrators."""

from __future__ import annotations

import os
import platform
import socket
import uuid
from typing import Any

import polyjob
from polyjob.api.blueprint import Blueprint
from polyjob.api.paging import limit, offset, page
from polyjob.api.request_context import me, settings
from polyjob.api.schemas.cluster import ClusterNodeSchema, ClusterSchema, GraphicsSchema, NodeSchema
from polyjob.auth.permissions import Access, requires
from polyjob.db.models import Meta
from polyjob.errors import Forbidden, NotFound

blp = Blueprint("cluster", __name__, description="The machine that polyjob runs on.")


@blp.get("/cluster")
@blp.response(200, ClusterSchema)
@requires(Access.ADMINISTRATOR)
def get_cluster() -> dict[str, Any]:
    """Get the machine, as a cluster of one node; for administrators"""
    _only_administrators()
    meta = {row.key: row.value for row in Meta.select()}
    version = {"major": "0", "minor": "6", "platform": f"polyjob {polyjob.__version__}"}
    moments = {"created_at": meta["made_at"], "updated_at": meta["made_at"]}
    return {"uuid": meta["installation"], "version_api": version, "nodes": [_node()]} | moments


@blp.get("/cluster/nodes")
@blp.page(ClusterNodeSchema)
@requires(Access.ADMINISTRATOR)
def list_nodes() -> dict[str, Any]:
    """List the nodes: this machine; for administrators"""
    _only_administrators()
    return page([_node()][offset() : offset() + limit()], 1)


@blp.get("/nodes/<int:number>")
@blp.response(200, NodeSchema)
@requires(Access.ADMINISTRATOR)
def get_node(number: int) -> dict[str, Any]:
    """Get a node: this machine is number 1; for administrators"""
    _only_administrators()
    _only_one(number)
    return _node() | {
        "gpus": _graphics(),
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
    """List the GPUs of a node that jobs may be given; for administrators"""
    _only_administrators()
    _only_one(number)
    found = _graphics()
    return page(found[offset() : offset() + limit()], len(found))


def _only_administrators() -> None:
    if not me().is_admin:
        raise Forbidden("You do not have permission to perform this action.")


def _only_one(number: int) -> None:
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
        "n_gpus": len(settings().gpus),
    }


def _graphics() -> list[dict[str, Any]]:
    """The GPUs of `POLYJOB_GPUS`; their models and memory are not known here."""
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
        for index in settings().gpus
    ]
