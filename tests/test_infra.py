"""The files in infra/, as far as they can be checked without a cluster. docs/how-to/cluster.md says what was really run of each."""

from __future__ import annotations

import copy
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pipeline.submit import STOPPING
from tests.conftest import ROOT
from tests.servers.process import free_port

INFRA = ROOT / "infra"
KUBERNETES = "1.31"
SCRIPTS = [*INFRA.rglob("*.sh"), *INFRA.rglob("*.sbatch"), ROOT / ".ci" / "run"]
MANIFESTS = sorted((INFRA / "kuberay").glob("*.yaml"))


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


def clusters() -> Iterator[tuple[str, dict[str, Any]]]:
    """The specification of every Ray cluster in the manifests."""
    for file in MANIFESTS:
        for document in documents(file):
            if document["kind"] == "RayCluster":
                yield file.name, document["spec"]
            if document["kind"] == "RayJob":
                yield file.name, document["spec"]["rayClusterSpec"]


def templates(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The pod templates of a Ray cluster, by group."""
    return {"head": spec["headGroupSpec"]["template"], **{g["groupName"]: g["template"] for g in spec["workerGroupSpecs"]}}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts(script: Path) -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    said = subprocess.run([shellcheck, "--severity=warning", script], capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        ((), {}, "expected head or worker, found ''"),
        (("worker",), {"RAY_AUTH_MODE": "token"}, "HEAD is not set"),
        (("head",), {}, "RAY_AUTH_MODE is not set"),
    ],
)
def test_node_sh_says_what_it_lacks(words: tuple[str, ...], more: dict[str, str], message: str) -> None:
    """What it does with all it needs: tests/cluster."""
    variables = {"PATH": os.environ["PATH"], **more}
    said = subprocess.run([INFRA / "ray" / "node.sh", *words], env=variables, capture_output=True, text=True)
    assert said.returncode == 2
    assert message in said.stderr


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_node_sh_leaves_nothing_behind_when_it_is_stopped(sent: signal.Signals, tmp_path: Path) -> None:
    """With a stand-in for Ray, which ends when told to and leaves a process in its group."""
    ray, told = tmp_path / "ray", tmp_path / "told"
    ray.write_text(f"#!/bin/bash\ntrap 'exit 0' TERM\nsleep 300 &\necho $$ > {told}.new && mv {told}.new {told}\nwait\n")
    ray.chmod(0o755)
    variables = {"PATH": os.environ["PATH"], "RAY": str(ray), "RAY_AUTH_MODE": "disabled"}
    node = subprocess.Popen([INFRA / "ray" / "node.sh", "head"], env=variables)
    deadline = time.monotonic() + 30
    while not told.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    group = int(told.read_text())
    assert len(living(group)) == 2
    node.send_signal(sent)
    assert node.wait(30) == 0
    left = psutil.wait_procs(living(group), timeout=5)[1]
    for process in left:
        process.kill()
    assert left == []


def living(group: int) -> list[psutil.Process]:
    """The processes of a process group, without those that have ended and wait for their parent."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_the_file_for_ray_up_by_rays_own_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((INFRA / "ray" / "cluster.yaml").read_text())
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert prepared["available_node_types"]["training"]["resources"] == {"CPU": 96, "GPU": 8}
    with pytest.raises(Exception, match="no_such_key"):
        validate_config({**prepared, "no_such_key": 1})


def test_manifests_by_kubernetes_own_schemas() -> None:
    import kubernetes_validate

    for file in MANIFESTS:
        for document in documents(file):
            if not document["apiVersion"].startswith("ray.io/"):
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
    for name, spec in clusters():
        for group, template in templates(spec).items():
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"{name}-{group}"}, **template}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)
            pod["spec"] = {**pod["spec"], "containrs": []}
            with pytest.raises(kubernetes_validate.ValidationError):
                kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_ray_clusters_fit_together() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    found = list(clusters())
    assert [name for name, _ in found] == ["raycluster.yaml", "rayjob.yaml"]
    for name, spec in found:
        assert f"\nray=={spec['rayVersion']}\n" in lock, f"{name}: another Ray than requirements.lock has"
        assert spec["authOptions"]["mode"] == "token"
        for group in spec["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        for group_name, template in templates(spec).items():
            [container], volumes = template["spec"]["containers"], {v["name"]: v for v in template["spec"]["volumes"]}
            mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
            shared = mounts["/dev/shm"]["emptyDir"]
            assert shared["medium"] == "Memory", f"{name} {group_name}: /dev/shm would be 64 MB"
            assert gigabytes(shared["sizeLimit"]) < gigabytes(container["resources"]["limits"]["memory"]), "it counts as memory"
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
            assert container["readinessProbe"]
            assert container["livenessProbe"]
            assert {"secretRef", "configMapRef"} <= {key for source in container["envFrom"] for key in source}
    assert found[0][1]["workerGroupSpecs"] == found[1][1]["workerGroupSpecs"], "the two manifests differ in their workers"


def gigabytes(text: str) -> float:
    match = re.fullmatch(r"(\d+)Gi", text)
    assert match, text
    return float(match[1])


def test_no_secret_stands_in_a_file() -> None:
    for file in MANIFESTS:
        for document in documents(file):
            assert document["kind"] != "Secret"
            for line in yaml.safe_dump(document).splitlines():
                assert not re.search(r"(PASSWORD|SECRET|TOKEN|_KEY)\w*: \S", line), f"{file.name}: {line}"


def test_the_image_copies_what_is_there() -> None:
    lines = (INFRA / "image" / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert {"pyproject.toml", "requirements.lock", "gpt1", "stages", "pipeline", "infra"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []
    [base] = [line for line in lines if line.startswith("FROM")]
    assert re.match(r"FROM python:3\.1[12]-", base)


def test_the_mlflow_server_says_what_it_lacks() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    bare = subprocess.run([INFRA / "mlflow" / "serve.sh"], env=environment, capture_output=True, text=True)
    assert (bare.returncode, bare.stderr.count("\n")) == (2, 1)
    assert "MLFLOW_BACKEND_STORE_URI is not set; expected postgresql+psycopg2://" in bare.stderr


@pytest.mark.slow
def test_the_slurm_scripts_ray_part_on_this_machine(tmp_path: Path) -> None:
    numbers = tmp_path / "numbers"
    numbers.mkdir()
    (numbers / "1.txt").write_text("1")
    environment = {
        **os.environ, "LAUNCH": "local", "GPT1_HOME": str(ROOT), "GPT1_STORE": str(tmp_path / "store"), "PYTHONPATH": str(ROOT),
        "RAY_PORT": str(free_port()), "RAY_TMPDIR": f"/tmp/gpt1-slurm-{os.getpid()}", "SLURM_CPUS_PER_TASK": "2",
        "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token"),
    }  # fmt: skip
    toy = ROOT / "tests" / "pipeline" / "toy" / "workflow.yaml"
    words = [INFRA / "slurm" / "gpt1.sbatch", "--file", toy, "--set", f"numbers.source={numbers}"]
    ended = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "3 made, 0 taken as they were, 0 failed" in ended.stdout
    assert len((tmp_path / "token").read_text()) == 64


def test_a_job_that_kuberay_submits_has_as_long_to_end_as_one_of_gpt1_submit() -> None:
    [job] = [document for document in documents(INFRA / "kuberay" / "rayjob.yaml") if document["kind"] == "RayJob"]
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"] == STOPPING
