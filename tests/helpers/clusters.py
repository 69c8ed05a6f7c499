"""Simulates a cluster on one machine: more host names, and Slurm with several nodes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def until(condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    """Calls `condition` every 0.1 seconds until its result is true, and returns the result.

    Raises:
        AssertionError: if no result was true for `seconds`; the message is `what`.
    """
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.1)
    return found


def with_hosts(folder: Path, names: Sequence[str]) -> list[str]:
    """Returns a command prefix, a list of arguments, with which `names` resolve to this machine.

    The command after the prefix runs in a new mount namespace with a different `/etc/hosts`.

    Args:
        folder: folder to write the new hosts file to.
        names: host names.
    """
    hosts = folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {socket.gethostname()} {' '.join(names)}\n")
    unshare = "-m" if os.geteuid() == 0 else "-rm"
    return ["unshare", unshare, "sh", "-c", f'mount --bind "{hosts}" /etc/hosts && exec "$@"', "sh"]


def own_names_missing(folder: Path) -> str | None:
    """Returns why `with_hosts` does not work on this machine, or None if it does.

    `folder` is as in `with_hosts`.
    """
    if shutil.which("unshare") is None:
        return "unshare is not installed (package util-linux)"
    command = [*with_hosts(folder, ["another-host"]), "getent", "hosts", "another-host"]
    found = subprocess.run(command, capture_output=True, text=True)
    return None if found.returncode == 0 else f"no mount namespaces here ({found.stderr.strip()})"


class Slurm:
    """A Slurm cluster on this machine, with its own key, ports and files.

    The function `slurm` starts and stops it.

    Args:
        folder: folder for the files of the cluster.
        nodes: number of nodes.

    Attributes:
        env: environment variables with which Slurm's commands find the cluster.
    """

    def __init__(self, folder: Path, nodes: int):
        self._folder, self._nodes = folder, nodes
        conf = folder / "slurm.conf"
        conf.write_text(_configuration(folder, nodes))
        self.env = {**os.environ, "SLURM_CONF": str(conf)}

    def ask(self, *command: str) -> str:
        """Runs a Slurm command, a program and its arguments, and returns its standard output.

        Raises:
            AssertionError: if the command fails.
        """
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Returns the state, such as RUNNING, of the job with the ID `job`."""
        return self.ask("squeue", "--noheader", "--states=all", "--format=%T", f"--job={job}")

    def wait_for(self, job: str, *states: str) -> str:
        """Waits until a job is in one of these states, and returns the state.

        Raises:
            AssertionError: if it is not after five minutes.
        """
        what = f"job {job} does not become {' or '.join(states)}"
        return until(lambda: (now := self.state(job)) in states and now, what)

    def at_once(self, job: str) -> None:
        """Starts a requeued job after 3 seconds; Slurm would start it after two minutes.

        3 seconds are needed: a node rejects a job that it ended less than `cred_expire` ago.
        """
        self.wait_for(job, "PENDING")
        time.sleep(3)
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    def end_jobs(self) -> None:
        """Kills running jobs and cancels all others.

        After a failed test, they would outlive the daemons.
        """
        subprocess.run(["scancel", "--me", "--signal=KILL", "--full"], env=self.env, check=False)
        subprocess.run(["scancel", "--me"], env=self.env, check=False)

    def _daemons(self) -> Iterator[list[str]]:
        munge = self._folder / "munge"
        yield ["munged", "--foreground", "--force", f"--key-file={munge}/key",
               f"--socket={munge}/socket", f"--pid-file={munge}/pid", f"--log-file={munge}/log",
               f"--seed-file={munge}/seed"]  # fmt: skip
        until((munge / "socket").exists, "munged does not start", 30)
        inside = with_hosts(self._folder, [f"n{i}" for i in range(self._nodes)])
        yield [*inside, "slurmctld", "-D", "-c"]
        for i in range(self._nodes):
            yield [*inside, "slurmd", "-D", "-N", f"n{i}"]


@contextlib.contextmanager
def slurm(folder: Path, nodes: int) -> Iterator[Slurm]:
    """Runs Slurm with the nodes n0, n1, ..., of 32 cores each, and yields the cluster.

    Args:
        folder: existing folder, in which the files of the cluster are written.
        nodes: number of nodes.
    """
    for name in ("munge", "state"):
        (folder / name).mkdir()
        (folder / name).chmod(0o755)
    key = folder / "munge/key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    cluster = Slurm(folder, nodes)
    daemons: list[subprocess.Popen] = []
    with (folder / "daemons.log").open("w") as log:
        try:
            for command in cluster._daemons():
                daemons.append(subprocess.Popen(command, env=cluster.env, stdout=log, stderr=log))
            idle = ["sinfo", "--noheader", "--states=idle", "--format=%D"]
            until(
                lambda: (
                    subprocess.run(idle, env=cluster.env, capture_output=True).stdout.strip()
                    == str(nodes).encode()
                ),
                "the nodes do not come up: see daemons.log",
                60,
            )
            yield cluster
        finally:
            cluster.end_jobs()
            for daemon in reversed(daemons):
                daemon.terminate()
            for daemon in daemons:
                daemon.wait(30)


def slurm_missing() -> str | None:
    """Returns why Slurm cannot run on this machine, or None if it can."""
    if os.geteuid() != 0:
        return "the daemons of Slurm are started by root"
    for program, package in (("munged", "munge"), ("slurmctld", "slurm-wlm"),
                             ("slurmd", "slurm-wlm")):  # fmt: skip
        if shutil.which(program) is None:
            return f"{program} is not installed (package {package})"
    return None


def _configuration(folder: Path, nodes: int) -> str:
    host = socket.gethostname()
    lines = [
        "ClusterName=loopback",
        f"SlurmctldHost={host}(127.0.0.1)",
        f"SlurmctldPort={free_port()}",
        "SlurmUser=root",
        "AuthType=auth/munge",
        f"AuthInfo=socket={folder}/munge/socket,cred_expire=1",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool-%n",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid",
        "ProctrackType=proctrack/linuxproc",  # needs no control groups
        "TaskPlugin=task/none",
        "SwitchType=switch/none",
        "MpiDefault=none",
        "JobAcctGatherType=jobacct_gather/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core",
        "SlurmdParameters=config_overrides",  # more cores than the machine has
        "SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0",
        "ReturnToService=2",
        "MinJobAge=3600",  # seconds for which squeue shows a job that has ended
    ]
    lines += [
        f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=32"
        for i in range(nodes)
    ]
    lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
    return "\n".join(lines) + "\n"
