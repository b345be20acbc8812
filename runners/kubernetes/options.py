"""The options of the Kubernetes runner, each declared once.

This module uses the standard library only, because polyjob's settings import it.

Each field of `Options` is a setting of polyjob; its metadata has the setting's name and help.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BUILD_COMMAND = (
    "BUILDKITD_FLAGS=--oci-worker-no-process-sandbox buildctl-daemonless.sh build --progress=plain "
    "--frontend=dockerfile.v0 --local context=. --local dockerfile=. ${NOCACHE:+--no-cache} "
    "--output type=image,name=$IMAGE,push=true${INSECURE:+,registry.insecure=true}"
)
"""Builds and pushes an image with rootless BuildKit."""

_RESOURCE = re.compile(r"(?:requests|limits)\.[\w./-]+=\d+(?:\.\d+)?(?:[munkMGTPE]|[KMGTPE]i)?")


def read_resources(text: str) -> str:
    """Return words such as `limits.cpu=200m`, or `none`, separated by single blanks. Raises ValueError."""
    words = text.split()
    if words != ["none"] and not all(_RESOURCE.fullmatch(word) for word in words):
        raise ValueError
    return " ".join(words)


def _option(setting: str, default: Any, help: str, kind: str = "text", default_text: str | None = None) -> Any:
    """Declare an option.

    `setting` is the name of polyjob's setting, `kind` one of "text", "file", "seconds" and "resources". `default_text`
    describes the default where it is empty or long.
    """
    metadata = {"setting": setting, "help": f"Kubernetes: {help}", "kind": kind, "default_text": default_text}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Options:
    """The options of the Kubernetes runner. Each field's help is in its metadata."""

    kubeconfig: str = _option(
        "kube_config",
        "",
        "kubeconfig file.",
        "file",
        "`$KUBECONFIG`, else `~/.kube/config`, else the service account of polyjob's pod",
    )
    context: str = _option("kube_context", "", "context in the kubeconfig.", default_text="the current context")
    namespace: str = _option(
        "kube_namespace", "", "namespace for jobs.", default_text="the namespace of the context, or of polyjob's pod"
    )
    patience: float = _option(
        "kube_patience", 600.0, "time that a pod may stay without a node or its image before its job fails.", "seconds"
    )
    helper_image: str = _option(
        "kube_helper_image",
        "busybox:stable",
        "image of the containers that copy files; needs `sh`, `tar`, `head`, `mkdir`, `rm` and `sleep`.",
    )
    helper_resources: str = _option(
        "kube_helper_resources",
        "requests.cpu=10m requests.memory=32Mi limits.cpu=200m limits.memory=128Mi",
        "resources of each container that copies files; must fit a LimitRange of the namespace.",
        "resources",
    )
    claim: str = _option(
        "kube_claim",
        "",
        "persistent volume claim for the files of running jobs.",
        default_text="an `emptyDir` in each pod",
    )
    gpu: str = _option("kube_gpu", "nvidia.com/gpu", "resource that a job's `gpu` requests.")
    registry: str = _option(
        "registry",
        "",
        "registry for built images, such as `registry.example.org/team`; prefix `http://` if it has no TLS.",
        default_text="none: build steps run in each job's pod",
    )
    registry_secret: str = _option(
        "registry_secret",
        "",
        "secret of type `kubernetes.io/dockerconfigjson` to push and pull images with.",
        default_text="none",
    )
    builder_image: str = _option("builder_image", "moby/buildkit:rootless", "image of the pods that build images.")
    builder_command: str = _option(
        "builder_command",
        BUILD_COMMAND,
        "shell command that builds `./Dockerfile` and pushes `$IMAGE`.",
        default_text="a `buildctl` command",
    )

    @property
    def is_insecure(self) -> bool:
        """Return whether the registry has no TLS."""
        return self.registry.startswith("http://")

    def helper_amounts(self) -> dict[str, dict[str, str]]:
        """Return `helper_resources` as in a manifest: {"requests": {"cpu": "10m"}}."""
        amounts: dict[str, dict[str, str]] = {}
        for word in self.helper_resources.split() if self.helper_resources != "none" else ():
            name, _, amount = word.partition("=")
            kind, _, resource = name.partition(".")
            amounts.setdefault(kind, {})[resource] = amount
        return amounts

    def to_strings(self) -> dict[str, str]:
        """Return the options as `RunnerSettings.options` has them. The inverse of `read`."""
        return {name: f"{value:g}" if name == "patience" else value for name, value in vars(self).items()}

    @classmethod
    def read(cls, options: Mapping[str, str]) -> Options:
        """Return the options of a runner. One that is missing or empty has its default."""
        values: dict[str, Any] = {name: options[name] for name in vars(cls()) if options.get(name)}
        if "patience" in values:
            values["patience"] = float(values["patience"])
        return cls(**values)
