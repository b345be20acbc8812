"""The settings of the Kubernetes runner alone, as its module is told them. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

BUILD_COMMAND = (
    "BUILDKITD_FLAGS=--oci-worker-no-process-sandbox buildctl-daemonless.sh build --progress=plain "
    "--frontend=dockerfile.v0 --local context=. --local dockerfile=. ${NOCACHE:+--no-cache} "
    "--output type=image,name=$IMAGE,push=true${INSECURE:+,registry.insecure=true}"
)
"""By BuildKit without root."""


@dataclass(frozen=True)
class Options:
    """See the settings of the same names."""

    kubeconfig: str = ""
    """Empty: what KUBECONFIG names, `~/.kube/config`, or the service account of the pod that polyjob runs in."""
    context: str = ""
    namespace: str = ""
    """Empty: that of the context, or of polyjob's own pod."""
    patience: float = 600.0
    """Seconds that a pod may be unschedulable, or its image not to be had, before the job is given up."""
    helper_image: str = "busybox:stable"
    """Has `sh`, `tar`, `head`, `sleep` and `mkdir`."""
    helper_resources: str = "requests.cpu=10m requests.memory=32Mi limits.cpu=200m limits.memory=128Mi"
    """What each container asks for that is not the job's own; `none`: nothing."""
    claim: str = ""
    """A persistent volume claim that holds the files of jobs; empty: each pod's own `emptyDir`."""
    gpu: str = "nvidia.com/gpu"
    registry: str = ""
    """Where images of builds are pushed, such as `registry.example.org/team`; with `http://` before it, without TLS.
    Empty: nothing is built, and the steps run in each job's pod."""
    registry_secret: str = ""
    """Secret of type `kubernetes.io/dockerconfigjson` for that registry."""
    builder_image: str = "moby/buildkit:rootless"
    builder_command: str = BUILD_COMMAND

    @property
    def is_insecure(self) -> bool:
        """Whether the registry is spoken to without TLS."""
        return self.registry.startswith("http://")

    def helper_amounts(self) -> dict[str, dict[str, str]]:
        """Return `helper_resources` as a manifest has them: {"requests": {"cpu": "10m"}}."""
        amounts: dict[str, dict[str, str]] = {}
        for word in self.helper_resources.split() if self.helper_resources != "none" else ():
            name, _, amount = word.partition("=")
            kind, _, resource = name.partition(".")
            amounts.setdefault(kind, {})[resource] = amount
        return amounts

    @classmethod
    def read(cls, told: Mapping[str, str]) -> Options:
        """Whatever is missing or empty is as it is here."""
        given = {field.name: told[field.name] for field in dataclasses.fields(cls) if told.get(field.name)}
        patience = float(given.pop("patience", cls.patience))
        return cls(patience=patience, **given)
