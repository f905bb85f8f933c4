"""The files in infra/, as far as this machine can check them; docs/how-to/cluster.md has the
rest.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pipeline.execution.jobs import STOPPING
from tests.conftest import ROOT
from tests.pipeline.inline import TOY, write_numbers
from tests.servers.process import free_port, wait_until

INFRA = ROOT / "infra"
KUBERNETES = "1.31"
SCRIPTS = [*INFRA.rglob("*.sh"), *INFRA.rglob("*.sbatch"), ROOT / ".ci" / "run"]
MANIFESTS = [file.read_text() for file in sorted((INFRA / "kuberay").glob("*.yaml"))]
DOCUMENTS: list[Any] = [one for text in MANIFESTS for one in yaml.safe_load_all(text) if one]
SPECS = {document["kind"]: document["spec"] for document in DOCUMENTS if "spec" in document}
CLUSTERS = [SPECS["RayCluster"], SPECS["RayJob"]["rayClusterSpec"]]
GROUPS = [[spec["headGroupSpec"], *spec["workerGroupSpecs"]] for spec in CLUSTERS]
TEMPLATES = [group["template"] for groups in GROUPS for group in groups]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts(script: Path) -> None:
    command = [Path(sys.executable).with_name("shellcheck"), "--severity=warning", script]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize(("command", "more", "message"), [
    ("ray/node.sh", {}, "found '', expected head or worker"),
    ("ray/node.sh worker", {"RAY_AUTH_MODE": "token"}, "HEAD is not set"),
    ("ray/node.sh head", {}, "RAY_AUTH_MODE is not set"),
    ("mlflow/serve.sh", {}, "STORE_URI is not set; expected postgresql+psycopg2://"),
])  # fmt: skip
def test_a_script_says_what_it_lacks(command: str, more: dict[str, str], message: str) -> None:
    """What they do with all they need: tests/cluster."""
    script, *words = command.split()
    variables = {"PATH": os.environ["PATH"], **more}
    said = subprocess.run([INFRA / script, *words], env=variables, capture_output=True, text=True)
    assert (said.returncode, message in said.stderr) == (2, True), said.stderr


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_node_sh_leaves_nothing_behind(sent: signal.Signals, tmp_path: Path) -> None:
    """When it is stopped.

    With a stand-in for Ray, which ends when it is asked to and leaves a process in its group.
    """
    ray, up = tmp_path / "ray", tmp_path / "up"
    ray.write_text(
        f"#!/bin/bash\ntrap 'exit 0' TERM\nsleep 300 &\necho $$ >{up}.new; mv {up}.new {up}\nwait\n"
    )
    ray.chmod(0o755)
    variables = {"PATH": os.environ["PATH"], "RAY": str(ray), "RAY_AUTH_MODE": "disabled"}
    node = subprocess.Popen([INFRA / "ray" / "node.sh", "head"], env=variables)
    wait_until(up.exists, "node.sh", node, tmp_path / "log")
    head = psutil.Process(int(up.read_text()))
    started = [head, *head.children()]
    assert len(started) > 1
    node.send_signal(sent)
    assert node.wait(30) == 0
    assert psutil.wait_procs(started, timeout=5)[1] == []


def test_the_file_for_ray_up_by_rays_own_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(yaml.safe_load((INFRA / "ray" / "cluster.yaml").read_text()))
    validate_config(prepared)
    assert prepared["available_node_types"]["training"]["resources"] == {"CPU": 96, "GPU": 8}


def test_manifests_by_kubernetes_own_schemas() -> None:
    import kubernetes_validate

    kind = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}}
    pods = [{**kind, **pod} for pod in TEMPLATES]
    for document in (*DOCUMENTS, *pods):
        if not document["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        assert document["kind"] != "Secret"
        secret = re.search(r"(PASSWORD|SECRET|TOKEN|_KEY)\w*: \S", yaml.safe_dump(document))
        assert secret is None, secret


def test_ray_clusters_fit_together() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    for spec in CLUSTERS:
        assert f"\nray=={spec['rayVersion']}\n" in lock
        assert spec["workerGroupSpecs"] == CLUSTERS[0]["workerGroupSpecs"]
        assert spec["authOptions"]["mode"] == "token"
    for template in TEMPLATES:
        [container], volumes = template["spec"]["containers"], template["spec"]["volumes"]
        [name] = [m["name"] for m in container["volumeMounts"] if m["mountPath"] == "/dev/shm"]
        [shared] = [volume["emptyDir"] for volume in volumes if volume["name"] == name]
        assert shared["medium"] == "Memory", "/dev/shm would be 64 MB"
        limit = container["resources"]["limits"]["memory"]
        assert int(shared["sizeLimit"].removesuffix("Gi")) < int(limit.removesuffix("Gi"))
        assert container["resources"]["requests"]["memory"] == limit
    # A job that KubeRay submits has as long to end as one of `gpt1 submit`.
    assert yaml.safe_load(SPECS["RayJob"]["runtimeEnvYAML"])["env_vars"] == STOPPING


def test_the_image_copies_what_is_there() -> None:
    dockerfile = (INFRA / "image" / "Dockerfile").read_text()
    copied = set(" ".join(re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE)).split())
    assert {"pyproject.toml", "requirements.lock", "gpt1", "stages", "pipeline", "infra"} <= copied
    assert [name for name in copied if not (ROOT / name).exists()] == []


@pytest.mark.slow
def test_the_slurm_scripts_ray_part_on_this_machine(tmp_path: Path) -> None:
    store, token = tmp_path / "store", tmp_path / "token"
    numbers = write_numbers(tmp_path / "numbers", 1)
    environment = {
        **os.environ, "LAUNCH": "local", "GPT1_HOME": str(ROOT), "GPT1_STORE": str(store),
        "RAY_PORT": str(free_port()), "RAY_TMPDIR": f"/tmp/gpt1-slurm-{os.getpid()}",
        "SLURM_CPUS_PER_TASK": "2", "RAY_AUTH_TOKEN_PATH": str(token), "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    words = [INFRA / "slurm" / "gpt1.sbatch", "--file", TOY, "--set", f"numbers.source={numbers}"]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert len(list(store.glob("tests.pipeline.toy.total/*/record.json"))) == 2
    assert len(token.read_text()) == 64
