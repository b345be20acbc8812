"""Preparation of a container by the kubelet: volumes, variables, the command, and its user."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Any

from tests.simulators.kubernetes import images
from tests.simulators.kubernetes.images import Image
from tests.simulators.kubernetes.privileges import NotYet, capabilities_of, user_of
from tests.simulators.kubernetes.selectors import Object
from tests.simulators.kubernetes.store import Store

REFERENCE = re.compile(r"\$(\$|\(([^()]*)\))")


def _need(store: Store, resource: str, namespace: str, name: str, optional: bool) -> dict[str, bytes] | None:
    stored = store.find(resource, namespace, name)
    if stored is None:
        if optional:
            return None
        raise NotYet("CreateContainerConfigError", f'{resource.removesuffix("s")} "{name}" not found')
    data = {key: value.encode() for key, value in (stored.get("data") or {}).items()}
    if resource == "secrets":
        data = {key: base64.b64decode(value) for key, value in data.items()}
        data |= {key: value.encode() for key, value in (stored.get("stringData") or {}).items()}
    return data


def make_volumes(store: Store, state: Path, folder: Path, pod: Object) -> dict[str, Path]:
    """Create and fill the folder of each volume. Raises NotYet if it refers to a missing object."""
    namespace = pod["metadata"]["namespace"]
    folders: dict[str, Path] = {}
    for volume in pod["spec"].get("volumes") or []:
        path = folder / "volumes" / volume["name"]
        try:
            folders[volume["name"]] = _make_volume(store, state, path, namespace, pod, volume)
        except NotYet as missing:
            text = f'MountVolume.SetUp failed for volume "{volume["name"]}" : {missing}'
            raise NotYet("ContainerCreating", text) from None
    return folders


def _make_volume(store: Store, state: Path, path: Path, namespace: str, pod: Object, volume: dict[str, Any]) -> Path:
    if "hostPath" in volume:
        return Path(volume["hostPath"]["path"])
    if "persistentVolumeClaim" in volume:
        name = volume["persistentVolumeClaim"]["claimName"]
        path = state / "claims" / namespace / name
        path.mkdir(parents=True, exist_ok=True)
        _give_to_group(path, pod)
        return path
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o777)
    _give_to_group(path, pod)
    for source in [volume, *((volume.get("projected") or {}).get("sources") or [])]:
        for name, content, mode in _files(store, namespace, pod, source):
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(mode)
    return path


def _give_to_group(path: Path, pod: Object) -> None:
    """Let the pod's `fsGroup` write to a volume, as a kubelet does. The folder still belongs to root."""
    group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    if group is not None:
        os.chown(path, -1, group)
        path.chmod(path.stat().st_mode & 0o7777 | 0o2770)


def _files(store: Store, namespace: str, pod: Object, source: dict[str, Any]) -> list[tuple[str, bytes, int]]:
    files: list[tuple[str, bytes, int]] = []
    for kind, resource, key in (("secret", "secrets", "secretName"), ("configMap", "configmaps", "name")):
        if kind not in source:
            continue
        reference = source[kind]
        name = reference.get(key) or reference.get("name", "")
        data = _need(store, resource, namespace, name, bool(reference.get("optional")))
        mode = reference.get("defaultMode", 0o644)
        items = reference.get("items") or [{"key": key, "path": key} for key in data or {}]
        for item in items:
            if data is not None and item["key"] in data:
                files.append((item["path"], data[item["key"]], item.get("mode", mode)))
    for item in (source.get("downwardAPI") or {}).get("items") or []:
        value = field_of(pod, item["fieldRef"]["fieldPath"])
        files.append((item["path"], value.encode(), 0o644))
    if "serviceAccountToken" in source:
        files.append((source["serviceAccountToken"]["path"], b"a-token-of-the-pod", 0o644))
    return files


def field_of(pod: Object, path: str) -> str:
    """Return a field of the pod for the downward API."""
    match = re.fullmatch(r"metadata\.(labels|annotations)(?:\['(.*)'\])?", path)
    if match:
        values = pod["metadata"].get(match[1]) or {}
        return values.get(match[2], "") if match[2] else "\n".join(f'{key}="{value}"' for key, value in values.items())
    value: Any = pod
    for step in path.split("."):
        value = (value or {}).get(step)
    return "" if value is None else str(value)


def expand(text: str, env: dict[str, str]) -> str:
    """Replace `$(NAME)` by the value of that variable if it exists, and `$$` by one dollar."""

    def put(match: re.Match[str]) -> str:
        if match[1] == "$":
            return "$"
        return env.get(match[2], match[0])

    return REFERENCE.sub(put, text)


def environment(store: Store, pod: Object, spec: dict[str, Any], image: Image) -> dict[str, str]:
    """Return the variables of a container. Raises NotYet if one refers to a missing object."""
    namespace = pod["metadata"]["namespace"]
    env = {
        **image.env,
        "HOSTNAME": pod["metadata"]["name"][:63],
        "HOME": "/root" if user_of(pod, spec, image)[0] == 0 else "/",
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        **(_service_links(store, namespace) if pod["spec"].get("enableServiceLinks", True) else {}),
    }
    for source in spec.get("envFrom") or []:
        for kind, resource in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
            if kind in source:
                data = _need(store, resource, namespace, source[kind]["name"], bool(source[kind].get("optional")))
                env |= {source.get("prefix", "") + key: value.decode() for key, value in (data or {}).items()}
    for variable in spec.get("env") or []:
        value = _variable(store, namespace, pod, spec, variable, env)
        if value is not None:
            env[variable["name"]] = value
    return env


def _service_links(store: Store, namespace: str) -> dict[str, str]:
    """Return the variables for each service of the namespace. They override those of the image."""
    links = {}
    for stored in store.list("services", namespace, lambda item: True)[1]:
        service = stored.object
        name = service["metadata"]["name"].upper().replace("-", "_")
        host = service["spec"].get("clusterIP", "10.96.66.10")
        for port in service["spec"]["ports"]:
            port_number, prefix = port["port"], f"{name}_PORT_{port['port']}_TCP"
            links |= {f"{name}_SERVICE_HOST": host, f"{name}_SERVICE_PORT": str(port_number)}
            links |= {f"{name}_PORT": f"tcp://{host}:{port_number}", prefix: f"tcp://{host}:{port_number}"}
            links |= {f"{prefix}_PROTO": "tcp", f"{prefix}_PORT": str(port_number), f"{prefix}_ADDR": host}
    return links


def _variable(
    store: Store, namespace: str, pod: Object, spec: dict[str, Any], variable: dict[str, Any], env: dict[str, str]
) -> str | None:
    source = variable.get("valueFrom")
    if not source:
        return expand(variable.get("value") or "", env)
    if "fieldRef" in source:
        return field_of(pod, source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        kind, _, resource = source["resourceFieldRef"]["resource"].partition(".")
        return str(((spec.get("resources") or {}).get(kind) or {}).get(resource, "0"))
    kind, resource = ("secretKeyRef", "secrets") if "secretKeyRef" in source else ("configMapKeyRef", "configmaps")
    reference = source[kind]
    data = _need(store, resource, namespace, reference["name"], bool(reference.get("optional")))
    if data is None or reference["key"] not in data:
        if reference.get("optional"):
            return None
        kind_name = resource.removesuffix("s").capitalize()
        text = f"couldn't find key {reference['key']} in {kind_name} {namespace}/{reference['name']}"
        raise NotYet("CreateContainerConfigError", text)
    return data[reference["key"]].decode()


def container_spec(
    store: Store,
    state: Path,
    folder: Path,
    pod: Object,
    spec: dict[str, Any],
    image: Image,
    volumes: dict[str, Path],
    log: Path,
    log_limit: int,
) -> dict[str, Any]:
    """Return the specification for the process beside a container. Raises NotYet."""
    user, group = user_of(pod, spec, image)
    env = environment(store, pod, spec, image)
    entrypoint = [expand(word, env) for word in spec.get("command") or []] or image.entrypoint
    arguments = [expand(word, env) for word in spec.get("args") or []]
    if not arguments and not spec.get("command"):
        arguments = image.command
    context = spec.get("securityContext") or {}
    mounts = []
    for mount in spec.get("volumeMounts") or []:
        source = volumes[mount["name"]]
        if mount.get("subPath"):
            source = source / mount["subPath"]
            if not source.exists():
                source.mkdir(parents=True)
                source.chmod(volumes[mount["name"]].stat().st_mode & 0o7777)
        path = os.path.normpath("/" + mount["mountPath"].lstrip("/"))
        mounts.append({"source": str(source), "path": path, "read_only": bool(mount.get("readOnly"))})
    groups = (pod["spec"].get("securityContext") or {}).get("supplementalGroups") or []
    fs_group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    return {
        "root": str(folder / "root"),
        "system": images.system(image, state),
        "mounts": mounts,
        "hostname": pod["metadata"]["name"][:63],
        "command": [*entrypoint, *arguments],
        "env": env,
        "workdir": spec.get("workingDir") or image.workdir,
        "user": user,
        "group": group,
        "groups": [*groups, *([fs_group] if fs_group is not None else [])],
        "no_new_privileges": context.get("allowPrivilegeEscalation") is False,
        "termination_log": str(_termination_log(log.with_suffix(".termination"))),
        "termination_policy": spec["terminationMessagePolicy"],
        "termination_path": spec["terminationMessagePath"],
        "capabilities": capabilities_of(context),
        "read_only_root": bool(context.get("readOnlyRootFilesystem")),
        "log": str(log),
        "log_limit": log_limit,
    }


def _termination_log(path: Path) -> Path:
    """Create the file for the container's termination message."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.chmod(0o666)
    return path
