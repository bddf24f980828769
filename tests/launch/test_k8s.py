"""scripts/launch/k8s.yaml: what the operator and Volcano read, and what each pod runs in the operator's environment."""

import shlex
import subprocess

import pytest
import yaml

from tests.examples.test_pretrain_gpt import ROOT, value
from tests.launch.hosts import clean

JOB = yaml.safe_load((ROOT / "scripts" / "launch" / "k8s.yaml").read_text())
REPLICAS = JOB["spec"]["pytorchReplicaSpecs"]
OPERATOR = {"PYTHONUNBUFFERED": "1", "MASTER_ADDR": "ascendspeed-master-0", "MASTER_PORT": "29500"}


def container(replica: str) -> dict:
    (only,) = REPLICAS[replica]["template"]["spec"]["containers"]
    return only


def test_it_is_a_job_of_two_nodes_scheduled_as_a_whole():
    assert (JOB["apiVersion"], JOB["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    pods = sum(replica["replicas"] for replica in REPLICAS.values())
    assert JOB["spec"]["runPolicy"]["schedulingPolicy"]["minAvailable"] == pods == 2
    assert REPLICAS["Master"]["replicas"] == 1


@pytest.mark.parametrize("replica", ["Master", "Worker"])
def test_a_pod_has_a_whole_node_and_the_shared_folder(replica):
    pod, only = REPLICAS[replica]["template"]["spec"], container(replica)
    assert pod["schedulerName"] == "volcano"
    processes = next(entry["value"] for entry in only["env"] if entry["name"] == "NPROC_PER_NODE")
    npus = {"huawei.com/Ascend910": int(processes)}
    assert only["resources"] == {"requests": npus, "limits": npus}
    assert only["name"] == "pytorch"
    assert only["ports"][0]["name"] == "pytorchjob-port"
    mounts = {mount["name"]: mount["mountPath"] for mount in only["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    save = next(entry["value"] for entry in only["env"] if entry["name"] == "SAVE_DIR")
    assert save.startswith(mounts["shared"])


@pytest.mark.parametrize("operator", ["newer", "older"])
@pytest.mark.parametrize(("replica", "rank"), [("Master", 0), ("Worker", 1)])
def test_a_pod_runs_its_share(replica, rank, operator):
    # The newer one counts processes in WORLD_SIZE and speaks torchrun's own variables besides.
    given = OPERATOR | {"RANK": str(rank), "WORLD_SIZE": "2" if operator == "older" else "16"}
    if operator == "newer":
        given |= {"PET_NNODES": "2", "PET_NODE_RANK": str(rank), "PET_NPROC_PER_NODE": "8"}
        given |= {f"PET_{name}": OPERATOR[name] for name in ("MASTER_ADDR", "MASTER_PORT")}
    only = container(replica)
    own = {entry["name"]: entry["value"] for entry in only["env"]}
    done = subprocess.run(
        [*only["command"], *only["args"]],
        cwd=ROOT,
        env=clean(DRY_RUN=1, **given, **own),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout.splitlines()[0])
    assert (value(words, "--nnodes"), value(words, "--nproc-per-node")) == ("2", "8")
    assert value(words, "--rdzv-endpoint") == "ascendspeed-master-0:29500"
    assert value(words, "--rdzv-conf").startswith(f"node_rank={rank},is_host={int(rank == 0)},")
    assert (value(words, "--max-restarts"), value(words, "--save")) == ("3", "/shared/runs/gpt")
