"""scripts/launch/slurm.sbatch with the commands of a Slurm that is not there: what every node runs."""

import shlex
import subprocess
from pathlib import Path

from tests.examples.test_pretrain_gpt import ROOT, value
from tests.launch.hosts import clean

SCRIPT = ROOT / "scripts" / "launch" / "slurm.sbatch"
JOB = {
    "SLURM_JOB_ID": 123456,
    "SLURM_JOB_NODELIST": "node[7-8]",
    "SLURM_JOB_NUM_NODES": 2,
    "SLURM_CPUS_ON_NODE": 96,
}


def submit(tmp_path: Path, *arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
    programs = tmp_path / "bin"
    programs.mkdir(parents=True)
    # srun runs the command once per node, scontrol expands a node list.
    sources = {
        "scontrol": '[[ "$*" == "show hostnames node[7-8]" ]] && printf "node7.invalid\\nnode8.invalid\\n"',
        "srun": 'echo "srun $*" >&2; while [[ "$1" == --* ]]; do shift; done\n'
        'for id in 0 1; do SLURM_NODEID=$id "$@" || exit 1; done',
    }
    for name, source in sources.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{source}\n")
        (programs / name).chmod(0o755)
    settings = clean(**(JOB | variables))
    settings["PATH"] = f"{programs}:{settings['PATH']}"
    return subprocess.run(["bash", SCRIPT, *arguments], cwd=ROOT, env=settings, capture_output=True, text=True)


def test_every_node_runs_the_recipe_with_its_own_rank(tmp_path):
    done = submit(tmp_path, "examples/pretrain_gpt.sh", "--save", "a folder", DRY_RUN=1)
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line) for line in done.stdout.splitlines() if line.startswith("torchrun ")]
    assert len(lines) == 2
    for rank, words in enumerate(lines):
        assert value(words, "--rdzv-endpoint") == "node7.invalid:23456"
        assert value(words, "--rdzv-conf").startswith(f"node_rank={rank},")
        assert (value(words, "--nnodes"), value(words, "--nproc-per-node")) == ("2", "8")
        assert value(words, "--save") == "a folder"
    srun = next(line for line in done.stderr.splitlines() if line.startswith("srun "))
    assert {"--kill-on-bad-exit=1", "--cpus-per-task=96"} <= set(srun.split())


def test_a_node_that_fails_fails_the_job(tmp_path):
    done = submit(tmp_path, "examples/pretrain_gpt.sh", NPROC_PER_NODE="two")
    assert done.returncode == 1
    assert "NPROC_PER_NODE=two" in done.stderr


def test_what_is_missing_is_said(tmp_path):
    assert submit(tmp_path / "a").stderr.startswith("slurm.sbatch: give the recipe")
    assert "examples/nothing.sh is no file" in submit(tmp_path / "b", "examples/nothing.sh").stderr
    assert submit(tmp_path / "c", "examples/pretrain_gpt.sh", SLURM_JOB_ID="").stderr.endswith("start it with sbatch\n")


def test_the_resources_are_those_of_an_atlas_a2():
    directives = [line.split(" ", 1)[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--nodes=2", "--ntasks-per-node=1", "--gres=npu:8"} <= set(directives)
