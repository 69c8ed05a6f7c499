#!/usr/bin/env python3
"""Prints a JobSet that trains on TPU slices or GPU nodes of Google Kubernetes Engine.

    python tpu_scripts/gke/jobset.py v5e:4x4 --name v3 --image IMAGE --bucket BUCKET --spot \\
        -- --arch inception_v3 --recipe inception_v3_tpu --dtype bfloat16 --batch-size 2048 \\
           --dataset imagenet2012 --data-dir /bucket/imagenet --workdir /bucket/runs/v3 \\
        | kubectl apply -f -

Devices have the names that `train/main.py --compile-only` takes: v5e:4x4, v6e:8x8 or tpu7x:2x2x2;
2*v5e:16x16 for two slices; h100:2x8 for two nodes of eight GPUs. This script needs only Python. The
cluster needs JobSet 0.10 or newer. For `--queue`, the cluster also needs Kueue, and for `--bucket`
the Cloud Storage FUSE driver.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import re
import string
import sys
from collections.abc import Sequence
from pathlib import Path

PORT = 8476  # port of process 0, to which the other processes connect
TEMPLATE = Path(__file__).with_name("jobset.yaml")

# GKE's name for each kind of TPU, and the number of axes of its topologies.
TPUS = {
    "v4": ("tpu-v4-podslice", 3),
    "v5e": ("tpu-v5-lite-podslice", 2),
    "v5p": ("tpu-v5p-slice", 3),
    "v6e": ("tpu-v6e-slice", 2),
    "tpu7x": ("tpu7x", 3),
}
GPUS = {
    "a100": "nvidia-a100-80gb",
    "h100": "nvidia-h100-80gb",
    "h200": "nvidia-h200-141gb",
    "b200": "nvidia-b200",
}
EXAMPLES = "v5e:4x4, 2*v6e:4x4, tpu7x:2x2x2 or h100:2x8"
_FORM = re.compile(r"(?:([1-9]\d*)\*)?([a-z]+\d+[a-z]*):([1-9]\d*(?:x[1-9]\d*){1,2})", re.ASCII)
# A pod's name may have 63 characters, and ends with -slice-INDEX-INDEX-HASH.
_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


class UsageError(Exception):
    """The manifest cannot be made with these options."""


@dataclasses.dataclass(frozen=True)
class Nodes:
    """The machines of a JobSet, all of one kind.

    Attributes:
        slices: number of TPU slices; 1 for GPU nodes.
        hosts: number of machines in a slice.
        chips: number of devices in a machine.
        resource: Kubernetes' name for a device, such as "google.com/tpu".
        selector: labels that the nodes must have.
    """

    slices: int
    hosts: int
    chips: int
    resource: str
    selector: dict[str, str]


def nodes(name: str) -> Nodes:
    """Returns a description of the machines that a topology consists of.

    Args:
        name: name of the topology, such as "v5e:4x4", "2*v5e:4x4" or "h100:2x8".

    Returns:
        The numbers of slices, machines and devices, and Kubernetes' names for them.

    Raises:
        UsageError: if the name is malformed, the kind of device is unknown, or the devices do not
            fill whole machines. Other topologies that Google does not offer are accepted.
    """
    match = _FORM.fullmatch(name)
    if match is None:
        raise UsageError(f"{name!r} names no devices: write {EXAMPLES}")
    slices, kind, sides = int(match[1] or 1), match[2], [int(n) for n in match[3].split("x")]
    if kind in GPUS:
        if slices > 1 or len(sides) != 2 or sides[1] > 8:
            raise UsageError(f"{name!r}: GPUs are NODESxGPUS, at most 8 a node, such as h100:2x8")
        selector = {"cloud.google.com/gke-accelerator": GPUS[kind]}
        return Nodes(1, sides[0], sides[1], "nvidia.com/gpu", selector)
    if kind not in TPUS:
        raise UsageError(f"{name!r}: known are {', '.join([*TPUS, *GPUS])}")
    label, axes = TPUS[kind]
    if len(sides) != axes:
        raise UsageError(f"{name!r}: topologies of {kind} have {axes} numbers")
    total = math.prod(sides)
    # A small flat slice is one machine. All other slices consist of machines with four chips.
    single = axes == 2 and total in (1, 4, 8)
    if not single and total % 4:
        raise UsageError(f"{name!r}: {total} chips are no whole number of machines of four")
    selector = {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": match[3],
    }
    chips = total if single else 4
    return Nodes(slices, total // chips, chips, "google.com/tpu", selector)


def command(name: str, found: Nodes) -> list[str]:
    """Returns the command that every pod runs, as a list of arguments.

    Kubernetes appends the arguments of `train/main.py`, which are not in the list.

    All pods have the same command. If there are several machines, it contains the host name of
    process 0, and computes a pod's process index from the environment variables SLICE and
    JOB_COMPLETION_INDEX. So no process has to ask Kubernetes for them.

    Args:
        name: name of the JobSet.
        found: machines of the JobSet.
    """
    count = found.slices * found.hosts
    if count == 1:
        return ["bash", "-c", 'exec python train/main.py --distributed off "$@"', "train"]
    script = (
        f"exec python train/main.py --coordinator {name}-slice-0-0.{name}:{PORT} "
        f"--num-processes {count} "
        f'--process-id "$((SLICE * {found.hosts} + JOB_COMPLETION_INDEX))" "$@"'
    )
    return ["bash", "-c", script, "train"]


def manifest(options: argparse.Namespace) -> str:
    """Returns the manifest as YAML text.

    Raises:
        UsageError: if no manifest can be made with these options.
    """
    for option, label in (("--name", options.name), ("--queue", options.queue)):
        if label is not None and not _LABEL.fullmatch(label):
            raise UsageError(
                f"{option} {label!r}: lower-case letters, digits and dashes, at most 40, "
                "starting with a letter"
            )
    found = nodes(options.devices)
    selector, tolerations = dict(found.selector), []
    if options.spot:
        selector["cloud.google.com/gke-spot"] = "true"
        tolerations.append({"key": "cloud.google.com/gke-spot", "operator": "Exists"})
    tolerations.append({"key": found.resource, "operator": "Exists", "effect": "NoSchedule"})
    # Worker processes pass images in shared memory, of which a container has only 64 MB.
    volumes: list[dict] = [{"name": "shm", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}]
    if options.bucket:
        driver = {
            "driver": "gcsfuse.csi.storage.gke.io",
            "volumeAttributes": {"bucketName": options.bucket, "mountOptions": "implicit-dirs"},
        }
        volumes.append({"name": "bucket", "csi": driver})
        mounts.append({"name": "bucket", "mountPath": "/bucket"})
    tpus = found.resource == "google.com/tpu"
    values = {
        "name": options.name,
        "labels": {"kueue.x-k8s.io/queue-name": options.queue} if options.queue else {},
        # A slice is a node pool, and each job of the set takes a whole node pool.
        "exclusive": (
            {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
            if tpus
            else {}
        ),
        "max_restarts": options.max_restarts,
        "slices": found.slices,
        "hosts": found.hosts,
        "pod_annotations": {"gke-gcsfuse/volumes": "true"} if options.bucket else {},
        "service_account": options.service_account,
        "grace": options.grace,
        "node_selector": selector,
        "tolerations": tolerations,
        "image": options.image,
        "command": list(map(literal, command(options.name, found))),
        "arguments": list(map(literal, options.arguments)),
        "port": PORT,
        "devices": {found.resource: found.chips},
        "mounts": mounts,
        "volumes": volumes,
    }
    # JSON is also YAML, and quotes all text that YAML would misread.
    texts = {key: json.dumps(value) for key, value in values.items()}
    _, _, body = TEMPLATE.read_text().partition("\n")  # the first line describes the template
    return string.Template(body).substitute(texts)


def literal(argument: str) -> str:
    """Returns an argument with every $ escaped, so that Kubernetes does not expand a $(NAME)."""
    return argument.replace("$", "$$")


def main(words: Sequence[str]) -> int:
    """Prints a manifest; returns the exit code.

    Args:
        words: arguments of the command line.
    """
    own, arguments = list(words), []
    if "--" in own:
        arguments = own[own.index("--") + 1 :]
        own = own[: own.index("--")]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("devices", help=f"devices, such as {EXAMPLES}")
    parser.add_argument("--name", default="inception", help="name of the JobSet")
    parser.add_argument("--image", required=True, help="container image, see Containerfile")
    parser.add_argument("--bucket", help="bucket to mount at /bucket")
    parser.add_argument("--queue", help="Kueue's LocalQueue; default: none")
    parser.add_argument("--spot", action="store_true", help="use spot nodes")
    parser.add_argument(
        "--service-account", default="default", help="Kubernetes account that may use the bucket"
    )
    parser.add_argument("--max-restarts", type=int, default=3, help="restarts after failures")
    parser.add_argument("--grace", type=int, default=120, help="seconds to save after SIGTERM")
    options = parser.parse_args(own)
    options.arguments = arguments
    if not arguments:
        parser.error("give the arguments of train/main.py after --")
    try:
        print(manifest(options), end="")
    except UsageError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
