"""Tests the Kubernetes manifests of `jobset.py`, and runs two pods as local processes."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.helpers import clusters
from tests.helpers.stand_in import OPTIONS, ROOT, assert_same_end, saved_step, trains

MAKE = ROOT / "tpu_scripts/gke/jobset.py"
CRD = Path(__file__).with_name("jobset.crd.yaml")
OWN = ["--name", "v3", "--image", "registry/image:tag"]


@functools.cache
def program() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("make", MAKE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["make"] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def make(devices: str, *options: str, arguments: list[str] = OPTIONS) -> Done:
    """Runs `jobset.py` in this process; returns its exit code, stdout and stderr.

    Args:
        devices: topology, such as "v5e:4x4".
        *options: options of `jobset.py`, added to those in `OWN`.
        arguments: arguments of `train/main.py`.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = program().main([devices, *OWN, *options, "--", *arguments])
        except SystemExit as end:
            code = end.code
    return Done(code, out.getvalue(), err.getvalue())


def manifest(devices: str, *options: str, arguments: list[str] = OPTIONS) -> dict:
    done = make(devices, *options, arguments=arguments)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def job(made: dict) -> dict:
    return made["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod(made: dict) -> dict:
    return job(made)["template"]["spec"]


# devices, options -> slices, hosts, devices a host, labels of the nodes
MADE = [
    ("v5e:2x2", [], 1, 1, 4, "tpu-v5-lite-podslice"),
    ("v5e:2x4", [], 1, 1, 8, "tpu-v5-lite-podslice"),
    ("v5e:4x4", ["--spot", "--bucket", "my-bucket"], 1, 4, 4, "tpu-v5-lite-podslice"),
    ("2*v5e:16x16", ["--queue", "research"], 2, 64, 4, "tpu-v5-lite-podslice"),
    ("v6e:8x8", [], 1, 16, 4, "tpu-v6e-slice"),
    ("4*v6e:4x8", ["--grace", "25"], 4, 8, 4, "tpu-v6e-slice"),
    ("v5p:2x2x4", [], 1, 4, 4, "tpu-v5p-slice"),
    ("tpu7x:2x2x1", [], 1, 1, 4, "tpu7x"),
    ("2*tpu7x:4x4x4", ["--spot", "--queue", "research", "--bucket", "b-1"], 2, 16, 4, "tpu7x"),
    ("h100:2x8", ["--bucket", "my-bucket"], 1, 2, 8, "nvidia-h100-80gb"),
    ("h200:1x8", ["--spot"], 1, 1, 8, "nvidia-h200-141gb"),
]


@pytest.fixture(scope="module", params=MADE, ids=[row[0] for row in MADE])
def made(request):
    devices, options, *expected = request.param
    return manifest(devices, *options), expected


def closed(schema: dict) -> dict:
    """Returns a copy of a schema in which unknown fields are errors, as on a Kubernetes server."""
    found = copy.deepcopy(schema)
    for part in (found, *found.get("properties", {}).values()):
        if "properties" in part:
            part["additionalProperties"] = False
            part["properties"] = {k: closed(v) for k, v in part["properties"].items()}
        if "items" in part:
            part["items"] = closed(part["items"])
    return found


@pytest.mark.slow
def test_manifests_fit_the_schemas(made):
    """The JobSet and the Job in it match their schemas, without unknown fields."""
    jsonschema = pytest.importorskip("jsonschema")
    kubernetes = pytest.importorskip("kubernetes_validate")
    found, _ = made
    jsonschema.validate(found, closed(yaml.safe_load(CRD.read_text())))
    template = found["spec"]["replicatedJobs"][0]["template"]
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "v3"}, **template}
    kubernetes.validate(whole, "1.34", strict=True)


@pytest.mark.slow
def test_an_unknown_field_is_found():
    jsonschema = pytest.importorskip("jsonschema")
    kubernetes = pytest.importorskip("kubernetes_validate")
    schema, found = closed(yaml.safe_load(CRD.read_text())), manifest("v5e:4x4")
    found["spec"]["failurePolicy"]["maxRestart"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        jsonschema.validate(found, schema)
    spec = {**job(found), "backofLimit": 0}
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "v3"}, "spec": spec}
    with pytest.raises(kubernetes.ValidationError, match="backofLimit"):
        kubernetes.validate(whole, "1.34", strict=True)


def test_manifests_ask_for_the_whole_slice(made):
    found, (slices, hosts, chips, label) = made
    assert found["spec"]["replicatedJobs"][0]["replicas"] == slices
    assert job(found)["parallelism"] == job(found)["completions"] == hosts
    (devices,) = pod(found)["containers"][0]["resources"]["limits"].items()
    assert devices == ("nvidia.com/gpu" if "nvidia" in label else "google.com/tpu", chips)
    assert label in pod(found)["nodeSelector"].values()
    script = pod(found)["containers"][0]["command"][2]
    if slices * hosts > 1:
        assert f"--num-processes {slices * hosts} " in script
    else:
        assert "--coordinator" not in script


def test_options_are_in_the_manifest():
    options = ["--spot", "--queue", "research", "--bucket", "my-bucket", "--grace", "25"]
    found = manifest("2*v6e:4x4", *options)
    assert found["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "research"}
    assert pod(found)["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod(found)["terminationGracePeriodSeconds"] == 25
    assert job(found)["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    volumes = {volume["name"]: volume for volume in pod(found)["volumes"]}
    assert volumes["bucket"]["csi"]["volumeAttributes"]["bucketName"] == "my-bucket"
    assert {m["name"] for m in pod(found)["containers"][0]["volumeMounts"]} == volumes.keys()


@pytest.mark.parametrize(
    ("devices", "options", "message"),
    [
        ("v5e", [], "names no devices"),
        ("0*v5e:4x4", [], "names no devices"),
        ("v5e:0x4", [], "names no devices"),
        ("v9:4x4", [], "known are v4, v5e"),
        ("v5e:2x2x2", [], "2 numbers"),
        ("v5p:4x4", [], "3 numbers"),
        ("v5e:3x3", [], "whole number of machines"),
        ("2*h100:1x8", [], "NODESxGPUS"),
        ("h100:2x9", [], "at most 8 a node"),
        ("v5e:4x4", ["--name", "My_Run"], "--name 'My_Run'"),
        ("v5e:4x4", ["--name", "a" * 41], "at most 40"),
        ("v5e:4x4", ["--queue", "-"], "--queue '-'"),
    ],
)
def test_bad_usage_is_refused(devices, options, message):
    done = make(devices, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_it_needs_python_alone():
    command = [sys.executable, "-S", MAKE, "v5e:4x4", *OWN, "--", *OPTIONS]
    done = subprocess.run(command, text=True, capture_output=True, check=True, env={})
    assert done.stdout == make("v5e:4x4").stdout


def test_arguments_must_be_given():
    assert "after --" in make("v5e:4x4", arguments=[]).stderr


# ---- Kubernetes' treatment of a manifest ----


def expanded(word: str, env: dict[str, str]) -> str:
    """Returns an argument from `command` or `args`, each $(NAME) expanded as Kubernetes does."""

    def replace(match: re.Match) -> str:
        if match[0] == "$$":
            return "$"
        return env.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", replace, word)


def container_process(made: dict, slice_index: int, index: int) -> tuple[list[str], dict[str, str]]:
    """Returns the command and the environment variables of a pod's container.

    The environment has only the variables that JobSet and Job add. `made` is the manifest, and
    `index` is the pod's index in its slice.
    """
    container = pod(made)["containers"][0]
    annotations = {"jobset.sigs.k8s.io/job-index": str(slice_index)}
    env = {
        "HOSTNAME": f"{made['metadata']['name']}-slice-{slice_index}-{index}",
        "JOB_COMPLETION_INDEX": str(index),
    }
    for entry in container["env"]:
        path = entry["valueFrom"]["fieldRef"]["fieldPath"]
        env[entry["name"]] = annotations[path.removeprefix("metadata.annotations['")[:-2]]
    return [expanded(word, env) for word in (*container["command"], *container["args"])], env


def decision(made: dict, code: int) -> str:
    """Returns the action, such as "FailJobSet", that JobSet takes after the exit code `code`.

    `made` is the manifest.
    """
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for i, rule in enumerate(job(made)["podFailurePolicy"]["rules"]):
        if code in rule.get("onExitCodes", {}).get("values", []):
            reason = "PodFailurePolicy"
            message = (
                "Container train for pod default/v3-slice-0-1-abcde failed with exit code "
                f"{code} matching FailJob rule at index {i}"
            )
    for rule in made["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(p, message) for p in patterns):
            return rule["action"]
    return "RestartJobSet"


@pytest.mark.parametrize(
    ("code", "action"),
    [
        (42, "RestartJobSetAndIgnoreMaxRestarts"),
        (2, "FailJobSet"),
        (1, "RestartJobSet"),
        (137, "RestartJobSet"),
    ],
)
def test_exit_codes_decide(code, action):
    assert decision(manifest("v5e:4x4"), code) == action


def test_words_reach_the_program_as_they_are():
    words = ["--workdir", 'gs://b/a "b" $(HOSTNAME) $$ {x: y} \u00e9', "--arch", "tiny", "", "#"]
    made = manifest("2*v5e:4x4", arguments=words)
    command, env = container_process(made, 1, 2)
    printing = 'python() { printf "%s\\0" "$@"; }; ' + command[2].replace("exec ", "")
    shown = [command[0], "-c", printing, *command[3:]]
    out = subprocess.run(shown, env=env, capture_output=True, check=True).stdout.decode()
    assert out.split("\0")[:-1] == [
        "train/main.py", "--coordinator", "v3-slice-0-0.v3:8476", "--num-processes", "8",
        "--process-id", "6", *words,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["h100:2x8", "2*v5e:2x2"])
def test_pods_train_are_drained_and_finish(checkout, environment, undisturbed, tmp_path, devices):
    """Two pods save and end when one of them gets SIGTERM; a restart resumes and finishes.

    The pods are local processes with the environment and the host names of real pods.
    """
    if why := clusters.own_names_missing(tmp_path):
        pytest.skip(why)
    workdir = tmp_path / "run"
    made = manifest(devices, arguments=[*OPTIONS, "--workdir", str(workdir)])
    slices, hosts = made["spec"]["replicatedJobs"][0]["replicas"], job(made)["parallelism"]
    places = [(i, j) for i in range(slices) for j in range(hosts)]
    assert len(places) == 2
    names = [f"v3-slice-{i}-{j}.v3" for i, j in places]
    start = clusters.with_hosts(tmp_path, names)

    def run_pods(name: str) -> tuple[list[subprocess.Popen], Path]:
        logs = [(tmp_path / f"{name}-{i}-{j}.log") for i, j in places]
        pods = []
        for place, log in zip(places, logs, strict=True):
            command, env = container_process(made, *place)
            with log.open("w") as file:
                # The environment of the checkout takes the place of the image's.
                pods.append(subprocess.Popen(
                    [*start, *command], cwd=checkout, stdout=file, stderr=file,
                    env={"HOME": os.environ["HOME"], **environment, **env},
                ))  # fmt: skip
        return pods, logs[0]

    pods, log = run_pods("first")
    try:
        trains(log)
        pods[1].send_signal(signal.SIGTERM)  # its node is drained
        assert [process.wait(120) for process in pods] == [42, 42], log.read_text()
    finally:
        for process in pods:
            process.kill()
    assert decision(made, 42) == "RestartJobSetAndIgnoreMaxRestarts"
    again, log_again = run_pods("again")
    assert [process.wait(300) for process in again] == [0, 0], log_again.read_text()
    assert f"resuming at step {saved_step(log)}," in log_again.read_text()
    assert json.loads(log_again.read_text().splitlines()[-1])["arch"] == "tiny"
    assert_same_end(workdir, undisturbed)
