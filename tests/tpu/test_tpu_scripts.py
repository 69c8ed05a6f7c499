"""The scripts for TPU pods, against a `gcloud` that plays what the cloud can do."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tpu_scripts"
GOLDEN = Path(__file__).parent / "golden/tpu_scripts"
NAMES = ["create", "setup", "run", "logs", "status", "stop", "delete", "babysit"]
ZONE = ["--zone", "us-central1-a"]
TYPE = ["--type", "v5litepod-16"]
NOT_FOUND = {"code": 1, "err": "ERROR: NOT_FOUND: Resource 'pod' was not found"}
DESCRIBE, CREATE, DELETE = (f"queued-resources {v}" for v in ("describe", "create", "delete"))

pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="the scripts ship a commit: a git checkout is needed"
)


def states(*names: str) -> list[dict]:
    return [NOT_FOUND if name == "ABSENT" else {"out": name} for name in names]


class Cloud:
    """The fake, in a folder of its own, and the scripts run against it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.started: list[subprocess.Popen] = []
        (folder / "bin").mkdir(parents=True)
        self._put("bin/gcloud", f'exec {sys.executable} {ROOT}/tests/tpu/fake_gcloud.py "$@"')
        self.env = {
            **{k: v for k, v in os.environ.items() if k not in ("DRY_RUN", "TPU_ZONE")},
            "FAKE_GCLOUD": str(folder),
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "XDG_STATE_HOME": str(folder / "state_home"),
            "POLL_SECONDS": "0.05",
            "MAX_POLL_SECONDS": "0.1",
        }

    def _put(self, name: str, body: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/bash\n{body}\n")
        path.chmod(0o755)

    def answers(self, **answers: list[dict]) -> None:
        (self.folder / "answers.json").write_text(json.dumps(answers))

    def made(self) -> Path:
        """Lets the scripts believe that they made the slice `pod`."""
        record = self.folder / "state_home/inception-jax/slices/default.us-central1-a.pod"
        record.parent.mkdir(parents=True)
        record.write_text("")
        return record

    def run(self, script: str, *options: str, seconds: float = 60, **env: str):
        return subprocess.run(
            [str(SCRIPTS / f"{script}.sh"), *options],
            env={**self.env, **env},
            text=True,
            capture_output=True,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )

    def start(self, script: str, *options: str, log: Path, **env: str) -> subprocess.Popen:
        """Starts a script that `kill` ends, and what it runs, if it has not ended by then."""
        with log.open("w") as file:
            process = subprocess.Popen(
                [str(SCRIPTS / f"{script}.sh"), *options],
                env={**self.env, **env},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def kill(self) -> None:
        """Ends what `start` left running."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def calls(self, *verbs: str) -> list[list[str]]:
        """What was asked of gcloud, all of it or these verbs."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        calls = [json.loads(line) for line in lines]
        return [call for call in calls if not verbs or call[4] in verbs]

    def verbs(self) -> list[str]:
        return [call[4] for call in self.calls()]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


def commitless(text: str) -> str:
    commit = subprocess.check_output(["git", "-C", str(ROOT), "rev-parse", "HEAD"], text=True)
    return text.replace(commit.strip(), "COMMIT")


# ---- What is run, to the letter ----

DRY = {
    "create": ["create", "pod", *ZONE, *TYPE],
    "create_spot": ["create", "pod", *ZONE, "--type=v6e-256", "--spot", "--project=my-project"],
    "create_reserved": ["create", "pod", *ZONE, "--type=v5p-128", "--reserved", "--internal-ip",
                        "--create-flag=--data-disk=source=a b,mode=read-only"],
    "create_v4": ["create", "pod", *ZONE, "--type=v4-32", "--runtime-version=tpu-vm-v4-base"],
    "create_tpu_vm": ["create", "pod", *ZONE, "--type=v3-8", "--api=tpu-vm", "--on-demand"],
    "setup": ["setup", "pod", *ZONE, "--allow-dirty", "--mount", "my-bucket"],
    "run": ["run", "pod", *ZONE, "--allow-dirty", "--job", "v3", "--logs", "gs://my-bucket/logs/",
            "--", "--arch", "inception_v3", "--workdir", "/mnt/my-bucket/it's a run; $HOME"],
    "logs": ["logs", "pod", *ZONE, "--job", "v3", "--worker=all", "--lines=7", "--follow"],
    "status": ["status", "pod", *ZONE],
    "stop": ["stop", "pod", *ZONE, "--grace", "30"],
    "delete": ["delete", "pod", *ZONE, "--yes"],
    "delete_tpu_vm": ["delete", "pod", *ZONE, "--api", "tpu-vm"],
    "babysit": ["babysit", "pod", *ZONE, *TYPE, "--spot", "--allow-dirty", "--delete-at-end",
                "--mount=my-bucket", "--", "--arch", "xception"],
}  # fmt: skip


@pytest.mark.parametrize("case", DRY)
def test_dry_run_prints_the_golden_commands(cloud, case):
    """With REWRITE_GOLDEN=1 in the environment, writes them anew: then look at the difference."""
    script, *options = DRY[case]
    done = cloud.run(script, *options, DRY_RUN="1")
    assert done.returncode == 0, done.stderr
    path, found = GOLDEN / f"{case}.txt", commitless(done.stdout)
    if os.environ.get("REWRITE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()
    assert cloud.calls() == []


@pytest.mark.parametrize("case", ["create_reserved", "setup", "run", "logs", "stop", "babysit"])
def test_what_is_printed_is_what_is_run(cloud, case):
    script, *options = DRY[case]
    printed = [shlex.split(line) for line in (GOLDEN / f"{case}.txt").read_text().splitlines()]
    sequence = {
        "create_reserved": ["ABSENT", "ACTIVE"],
        "babysit": ["ABSENT", "ACTIVE", "ABSENT"],
    }
    cloud.answers(
        **{
            DESCRIBE: states(*sequence.get(case, ["ACTIVE"])),
            "tpu-vm ssh": [{"out": "worker=w-0 state=exited code=0"}],
        }
    )
    done = cloud.run(script, *options)
    assert done.returncode == 0, done.stderr
    run = [[commitless(word) for word in call] for call in cloud.calls()]
    expected = [line for line in printed if line[0] == "gcloud"]
    if case == "babysit":  # the last look, after the deletion, is not printed
        assert run.pop() == expected[0]
    assert run == expected


@pytest.mark.parametrize("name", NAMES)
def test_help_tells_of_every_option(cloud, name):
    done = cloud.run(name, "--help")
    assert done.returncode == 0
    text = (SCRIPTS / f"{name}.sh").read_text()
    accepted = re.search(r'parse_options "(.*)" "\$@"', text)[1].split()
    for option in accepted:
        assert option in done.stdout
    assert "Exit code" in done.stdout
    assert cloud.calls() == []


# ---- What is refused before anything is asked ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "name the slice"),
        (["pod"], "--zone"),
        (["pod", "--zone"], "--zone needs a value"),
        (["pod", "--zone="], "--zone needs a value"),
        (["pod", "pod2", *ZONE], "one slice at a time"),
        (["my pod", *ZONE, *TYPE], "lower-case"),
        (["pod;reboot", *ZONE, *TYPE], "lower-case"),
        (["-pod", *ZONE, *TYPE], "lower-case"),
        (["p" * 64, *ZONE, *TYPE], "lower-case"),
        (["pod", "--zone", "us-central1-a; ls", *TYPE], "a zone such as"),
        (["pod", "--zone", "us-central1-a\n", *TYPE], "a zone such as"),
        (["pod", *ZONE, "--project", "$(ls)", *TYPE], "project id"),
        (["pod", *ZONE], "--type TYPE is needed"),
        (["pod", *ZONE, "--type", "v5e-16"], "v5litepod-16"),
        (["pod", *ZONE, "--type", "tpu7x-16"], "Compute Engine or GKE"),
        (["pod", *ZONE, "--type", "h100"], "v6e-N"),
        (["pod", *ZONE, *TYPE, "--spot", "--reserved"], "exclude each other"),
        (["pod", *ZONE, *TYPE, "--spot=1"], "takes no value"),
        (["pod", *ZONE, *TYPE, "--wait", "1h"], "seconds"),
        (["pod", *ZONE, *TYPE, "--runtime-version", "a b"], "--runtime-version"),
        (["pod", *ZONE, *TYPE, "--api", "gke"], "queued-resources"),
        (["pod", *ZONE, *TYPE, "--create-flag", "rm"], "a flag of gcloud"),
        (["pod", *ZONE, *TYPE, "--frobnicate"], "unknown option --frobnicate"),
        (["pod", *ZONE, *TYPE, "--yes"], "unknown option --yes"),
        (["pod", *ZONE, *TYPE, "--", "x"], "nothing goes after --"),
    ],
)
def test_bad_usage_ends_before_any_call(cloud, options, words):
    done = cloud.run("create", *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert cloud.calls() == []


@pytest.mark.parametrize(
    ("script", "options", "words"),
    [
        ("run", ["--job", "a/b", "--", "x"], "--job"),
        ("run", ["--job", "a b", "--", "x"], "--job"),
        ("run", ["--logs", "s3://b", "--", "x"], "gs://"),
        ("run", ["--logs", "gs://bucket/$(ls)", "--", "x"], "gs://"),
        ("run", [], "after --"),
        ("run", ["--"], "after --"),
        ("setup", ["--mount", "gs://b"], "without gs://"),
        ("logs", ["--worker", "x"], "--worker"),
        ("stop", ["--grace", "-1"], "--grace"),
        ("babysit", [*TYPE], "after --"),
        ("babysit", ["--max-failures", "x", *TYPE, "--", "x"], "--max-failures"),
    ],
)
def test_bad_usage_of_the_other_scripts(cloud, script, options, words):
    done = cloud.run(script, "pod", *ZONE, *options)
    assert done.returncode == 2
    assert words in done.stderr
    assert cloud.calls() == []


# ---- Making a slice ----


def test_create_waits_until_the_slice_is_up(cloud):
    sequence = ["ABSENT", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "CREATING", "ACTIVE"]
    cloud.answers(**{DESCRIBE: states(*sequence)})
    done = cloud.run("create", "pod", *ZONE, *TYPE)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == ["describe", "create"] + ["describe"] * 5
    for state in sequence[1:]:
        assert f"pod: {state}" in done.stderr  # progress


@pytest.mark.parametrize("up", ["ACTIVE", "READY"])
def test_create_leaves_a_slice_that_is_up(cloud, up):
    cloud.answers(**{DESCRIBE: states(up)})
    assert cloud.run("create", "pod", *ZONE, *TYPE).returncode == 0
    assert cloud.verbs() == ["describe"]


@pytest.mark.parametrize("lost", ["SUSPENDED", "FAILED", "PREEMPTED", "TERMINATED", "STOPPED"])
def test_a_lost_slice_is_made_anew_only_if_it_is_ours(cloud, lost):
    cloud.answers(**{DESCRIBE: states(lost)})
    done = cloud.run("create", "pod", *ZONE, *TYPE)
    assert done.returncode == 1
    assert "did not make it" in done.stderr
    assert cloud.verbs() == ["describe"]

    cloud.made()
    cloud.answers(**{DESCRIBE: states(lost, "DELETING", "ABSENT", "ABSENT", "ACTIVE")})
    done = cloud.run("create", "pod", *ZONE, *TYPE)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs()[1:] == [
        "describe", "delete", "describe", "describe", "describe", "create", "describe",
    ]  # fmt: skip


def test_a_label_says_whose_a_slice_is_too(cloud):
    cloud.answers(**{DESCRIBE: states("SUSPENDED\tsomebody")})
    assert cloud.run("create", "pod", *ZONE, *TYPE).returncode == 1
    assert "delete" not in cloud.verbs()
    cloud.answers(**{DESCRIBE: states("SUSPENDED\tcreated", "ABSENT", "ABSENT", "ACTIVE")})
    assert cloud.run("create", "pod", *ZONE, *TYPE).returncode == 0
    assert "delete" in cloud.verbs()


def test_waiting_ends(cloud):
    cloud.answers(**{DESCRIBE: states("WAITING_FOR_RESOURCES")})
    done = cloud.run("create", "pod", *ZONE, *TYPE, "--wait", "1")
    assert done.returncode == 1
    assert "still WAITING_FOR_RESOURCES after 1 s" in done.stderr


def test_failures_that_pass_are_tried_again(cloud):
    unavailable = {"code": 1, "err": "ERROR: UNAVAILABLE: try later"}
    cloud.answers(
        **{
            DESCRIBE: [unavailable, NOT_FOUND, unavailable, *states("ACTIVE")],
            CREATE: [unavailable, unavailable, {}],
        }
    )
    done = cloud.run("create", "pod", *ZONE, *TYPE)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == ["describe"] * 2 + ["create"] * 3 + ["describe"] * 2


def test_a_create_whose_answer_was_lost_is_found(cloud):
    exists = {"code": 1, "err": "ERROR: ALREADY_EXISTS: Resource 'pod' already exists"}
    cloud.answers(
        **{
            DESCRIBE: states("ABSENT", "ACCEPTED", "ACTIVE"),
            CREATE: [{"code": 1, "err": "ERROR: deadline"}, exists],
        }
    )
    done = cloud.run("create", "pod", *ZONE, *TYPE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "error",
    ["PERMISSION_DENIED: no", "INVALID_ARGUMENT: type", "Quota limit 'TPUV5s' has been exceeded"],
)
def test_what_no_second_try_changes_is_not_tried_again(cloud, error):
    cloud.answers(**{DESCRIBE: [NOT_FOUND], CREATE: [{"code": 1, "err": f"ERROR: {error}"}]})
    done = cloud.run("create", "pod", *ZONE, *TYPE)
    assert done.returncode == 1
    assert error in done.stderr
    assert "cannot be made" in done.stderr
    assert cloud.verbs().count("create") == 1
    assert not list(cloud.folder.glob("state_home/**/*pod"))  # it is not ours: it is not


def test_a_cloud_that_does_not_answer_is_given_up(cloud):
    cloud.answers(**{DESCRIBE: [{"seconds": 30}]})
    started = time.monotonic()
    done = cloud.run("create", "pod", *ZONE, *TYPE, GCLOUD_SECONDS="0.2")
    assert done.returncode == 1
    assert "no answer within 0.2 s" in done.stderr
    assert "cannot be read" in done.stderr
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("garbage", ["", "Updates are available", "{}", "ACTIVE!"])
def test_garbage_is_no_state(cloud, garbage):
    cloud.answers(**{DESCRIBE: [{"out": garbage}]})
    done = cloud.run("create", "pod", *ZONE, *TYPE)
    assert done.returncode == 1
    assert "no state of a slice" in done.stderr
    assert cloud.verbs() == ["describe"] * 5
    cloud.answers(**{DESCRIBE: [{"out": garbage}, *states("ACTIVE")]})
    assert cloud.run("create", "pod", *ZONE, *TYPE).returncode == 0


def test_a_slice_that_never_comes_is_not_made_for_ever(cloud):
    cloud.answers(**{DESCRIBE: states("ABSENT")})
    done = cloud.run("create", "pod", *ZONE, *TYPE)
    assert done.returncode == 1
    assert "made 5 times" in done.stderr
    assert cloud.verbs().count("create") == 5


# ---- Deleting ----


def test_delete_deletes_what_it_made_and_asks(cloud):
    cloud.answers(**{DESCRIBE: states("ACTIVE")})
    done = cloud.run("delete", "pod", *ZONE, "--yes")
    assert done.returncode == 1
    assert "not made by these scripts" in done.stderr
    record = cloud.made()
    done = cloud.run("delete", "pod", *ZONE)
    assert done.returncode == 1
    assert "give --yes" in done.stderr
    assert "delete" not in cloud.verbs()
    cloud.answers(**{DESCRIBE: states("ACTIVE", "DELETING", "ABSENT")})
    done = cloud.run("delete", "pod", *ZONE, "--yes")
    assert done.returncode == 0, done.stderr
    assert cloud.verbs().count("delete") == 1
    assert not record.exists()


def test_deleting_nothing_is_done_at_once(cloud):
    cloud.answers(**{DESCRIBE: states("ABSENT")})
    done = cloud.run("delete", "pod", *ZONE, "--yes")
    assert done.returncode == 0
    assert "there is no pod" in done.stderr
    assert cloud.verbs() == ["describe"]


# ---- Code and jobs ----


@pytest.mark.parametrize(
    ("script", "options"), [("setup", []), ("run", ["--", "--arch", "xception"])]
)
def test_nothing_is_shipped_to_a_slice_that_is_down(cloud, script, options):
    cloud.answers(**{DESCRIBE: states("CREATING")})
    done = cloud.run(script, "pod", *ZONE, "--allow-dirty", *options)
    assert done.returncode == 1
    assert "pod is CREATING" in done.stderr
    assert cloud.verbs() == ["describe"]


def test_uncommitted_changes_are_refused(cloud, tmp_path):
    checkout = tmp_path / "checkout"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(checkout)], check=True)
    for script in SCRIPTS.glob("*.sh"):
        (checkout / "tpu_scripts").mkdir(exist_ok=True)
        (checkout / "tpu_scripts" / script.name).write_bytes(script.read_bytes())
        (checkout / "tpu_scripts" / script.name).chmod(script.stat().st_mode)
    (checkout / "new.py").write_text("")
    cloud.answers(**{DESCRIBE: states("ACTIVE")})
    command = [str(checkout / "tpu_scripts/run.sh"), "pod", *ZONE]
    arguments = ["--", "--arch", "xception"]
    done = subprocess.run([*command, *arguments], env=cloud.env, text=True, capture_output=True)
    assert done.returncode == 1
    assert "--allow-dirty" in done.stderr
    assert cloud.calls() == []
    done = subprocess.run(
        [*command, "--allow-dirty", *arguments], env=cloud.env, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("lines", "word", "code"),
    [
        (["running pid=7", "running pid=8"], "running", 3),
        (["running pid=7", "exited code=1"], "running", 3),
        (["exited code=0", "exited code=0"], "done", 0),
        (["exited code=42", "exited code=42"], "preempted", 42),
        (["exited code=42", "killed"], "preempted", 42),
        (["exited code=0", "exited code=1"], "failed", 1),
        (["exited code=0", "killed"], "failed", 1),
        (["exited code=0", "idle"], "failed", 1),
        (["idle", "exited code=0"], "failed", 1),
        (["exited code=134", "exited code=137"], "failed", 1),
        (["exited code=2", "exited code=2"], "usage", 1),
        (["exited code=20", "exited code=20"], "failed", 1),
        (["idle", "idle"], "idle", 4),
        ([], "unreachable", 5),
    ],
)
def test_status_sums_the_workers_up(cloud, lines, word, code):
    said = [f"worker=w-{i} state={line}" for i, line in enumerate(lines)]
    noise = ["Warning: Permanently added '10.0.0.1' to the list of known hosts.", *said, ""]
    cloud.answers(**{DESCRIBE: states("ACTIVE"), "tpu-vm ssh": [{"out": "\n".join(noise)}]})
    done = cloud.run("status", "pod", *ZONE)
    assert done.stdout.splitlines() == [*said, word]
    assert done.returncode == code


def test_status_of_what_cannot_be_asked(cloud):
    cloud.answers(**{DESCRIBE: states("SUSPENDED")})
    done = cloud.run("status", "pod", *ZONE)
    assert (done.stdout, done.returncode) == ("down\n", 6)
    cloud.answers(**{DESCRIBE: states("ACTIVE"), "tpu-vm ssh": [{"code": 255}]})
    done = cloud.run("status", "pod", *ZONE)
    assert (done.stdout, done.returncode) == ("unreachable\n", 5)


# ---- Babysitting ----


def babysit(cloud, described: list[dict], jobs: list[str], *options: str, **env: str):
    """Runs it against a slice and a job whose states follow each other."""
    # Of the calls by ssh the first three, unpacking, installing and starting, say nothing.
    quiet, ssh = [{}] * 3, []
    for job in jobs:
        if job == "restart":
            ssh += quiet
        elif job == "refused":
            ssh.append({"code": 255, "err": "ssh: connection refused"})
        else:
            ssh.append({"out": f"worker=w-0 state={job}"})
    cloud.answers(**{DESCRIBE: described, "tpu-vm ssh": quiet + ssh})
    return cloud.run(
        "babysit", "pod", *ZONE, *TYPE, *options, "--allow-dirty", "--", "--arch", "xception", **env
    )


def test_babysit_sees_a_run_through(cloud):
    done = babysit(
        cloud,
        states("ABSENT", "WAITING_FOR_RESOURCES", "ACTIVE"),
        ["running pid=1", "running pid=1", "exited code=0"],
    )
    assert done.returncode == 0, done.stderr
    assert cloud.verbs() == [
        "describe", "create", "describe", "describe", "scp", *["ssh"] * 6,
    ]  # fmt: skip
    assert "training is done" in done.stderr


def test_babysit_starts_a_preempted_job_again(cloud):
    jobs = ["running pid=1", "exited code=42", "restart", "running pid=2", "exited code=42"]
    done = babysit(
        cloud, states("ACTIVE"), [*jobs, "restart", "exited code=0"], "--max-failures", "1"
    )
    assert done.returncode == 0, done.stderr
    assert cloud.verbs().count("scp") == 3
    assert "create" not in cloud.verbs()


def test_babysit_gives_up_what_is_taken_away_too_often(cloud):
    jobs = ["exited code=42", "restart"] * 9
    done = babysit(cloud, states("ACTIVE"), jobs, "--max-losses", "3")
    assert done.returncode == 1
    assert "was preempted, and has saved, 3 times in a row within 600 s" in done.stderr
    assert cloud.verbs().count("scp") == 3


def test_babysit_gives_a_slice_up_that_never_stays(cloud):
    described = states("ACTIVE", "SUSPENDED", *["ABSENT", "ACTIVE", "PREEMPTED"] * 9)
    done = babysit(cloud, described, ["refused"] * 20, "--max-losses", "2", "--adopt")
    assert done.returncode == 1
    assert "2 times in a row" in done.stderr


def test_a_long_run_starts_the_count_of_losses_anew(cloud):
    jobs = ["exited code=42", "restart"] * 4 + ["exited code=0"]
    done = babysit(cloud, states("ACTIVE"), jobs, "--max-losses", "2", HEALTHY_SECONDS="0")
    assert done.returncode == 0, done.stderr


def test_babysit_makes_a_suspended_slice_anew(cloud):
    described = states(
        "ABSENT", "ACTIVE",  # made
        "SUSPENDING",  # the workers do not answer: why
        "SUSPENDING", "SUSPENDING", "SUSPENDED",  # waited for
        "DELETING", "ABSENT", "ABSENT", "PROVISIONING", "ACTIVE",
    )  # fmt: skip
    jobs = ["running pid=1", "refused", "restart", "exited code=0"]
    done = babysit(cloud, described, jobs)
    # After "refused" the state is asked for once more, for what to do next.
    assert done.returncode == 0, done.stderr
    verbs = cloud.verbs()
    assert (verbs.count("create"), verbs.count("delete"), verbs.count("scp")) == (2, 1, 2)


def test_babysit_does_not_delete_what_it_did_not_make(cloud):
    done = babysit(cloud, states("ACTIVE", "SUSPENDED"), ["running pid=1", "refused"])
    assert done.returncode == 1
    assert "did not make it" in done.stderr
    assert "delete" not in cloud.verbs()


@pytest.mark.parametrize("failure", ["exited code=1", "killed", "exited code=134"])
def test_babysit_gives_a_failing_job_up(cloud, failure):
    jobs = [failure, "restart", failure, "restart", failure]
    done = babysit(cloud, states("ACTIVE"), jobs, "--max-failures", "3")
    assert done.returncode == 1
    assert "failed 3 times in a row" in done.stderr
    assert cloud.verbs().count("scp") == 3


def test_babysit_does_not_repeat_bad_usage(cloud):
    done = babysit(cloud, states("ACTIVE"), ["exited code=2"])
    assert done.returncode == 1
    assert "refuses its arguments" in done.stderr
    assert cloud.verbs().count("scp") == 1


def test_a_long_run_starts_the_count_of_failures_anew(cloud):
    jobs = ["exited code=1", "restart"] * 4 + ["exited code=0"]
    done = babysit(cloud, states("ACTIVE"), jobs, "--max-failures", "2", HEALTHY_SECONDS="0")
    assert done.returncode == 0, done.stderr


def test_workers_that_hang_when_others_have_ended_are_stopped(cloud):
    mixed = "running pid=1\nworker=w-1 state=exited code=1"
    jobs = [mixed] * 60
    done = babysit(
        cloud, states("ACTIVE"), jobs, "--max-failures", "1", STRAGGLER_SECONDS="1"
    )  # fmt: skip
    assert done.returncode == 1
    assert "stopping them" in done.stderr
    assert any("worker.sh stop train" in call[-1] for call in cloud.calls("ssh"))


# ---- What happens on a worker ----


@pytest.fixture
def workers(cloud):
    """Two folders that are the homes of two workers; `uv` there gives this Python."""
    for i in range(2):
        (cloud.folder / f"workers/{i}").mkdir(parents=True)
    cloud._put("worker_bin/hostname", 'basename "$HOME" | sed "s/^/t1v-n-0-w-/"')
    cloud._put(
        "worker_bin/uv",
        'if [[ $1 == venv ]]; then folder=${!#}; mkdir -p "$folder/bin"\n'
        f'printf \'#!/bin/bash\\nexec {sys.executable} "$@"\\n\' >"$folder/bin/python"\n'
        'chmod +x "$folder/bin/python"; fi',
    )
    for job in range(os.getpid(), os.getpid() + 4096):  # the port follows from it
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", job % 2**12 + 65535 - 2**12 + 1)):
                break
    cloud.env.update(
        FAKE_SLURM_JOB=str(job),
        XLA_FLAGS="",
        JAX_PLATFORMS="cpu",
        JAX_DISABLE_MOST_OPTIMIZATIONS="1",
        JAX_COMPILATION_CACHE_DIR=str(cloud.folder / "cache"),
        UPLOAD_SECONDS="1",
    )
    yield cloud
    cloud.kill()  # first, or it starts them anew
    for path in cloud.folder.glob("workers/*/inception_jax/jobs/*/pid"):
        subprocess.run(["kill", "-9", path.read_text().strip()], check=False, capture_output=True)


def until(condition, what: str, seconds: float = 600):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.1)
    return found


@pytest.mark.slow
def test_a_pod_trains_is_taken_away_and_finishes(workers, tmp_path):
    """Two processes really train; one gets SIGTERM, the slice is lost, babysit makes it anew."""
    cloud, total = workers, 40
    workdir = tmp_path / "shared folder/run"  # outlives the workers, and needs quoting
    arguments = ["--arch", "xception", "--width-multiplier", "0.05", "--batch-size", "8",
                 "--steps", str(total), "--log-every", "1", "--no-tensorboard",
                 "--heartbeat-timeout", "20", "--workdir", str(workdir)]  # fmt: skip
    log = tmp_path / "babysit.log"
    command = ["pod", *ZONE, *TYPE, "--spot", "--allow-dirty", "--delete-at-end",
               "--logs", "gs://my-bucket/logs", "--", *arguments]  # fmt: skip
    sitter = cloud.start("babysit", *command, log=log, POLL_SECONDS="0.5", MAX_POLL_SECONDS="1")
    jobs = [tmp_path / f"workers/{i}/inception_jax/jobs/train" for i in range(2)]
    state = tmp_path / "state"

    def trains() -> bool:
        assert sitter.poll() is None, log.read_text()
        worker = jobs[0] / "log"
        return worker.exists() and "step 3/" in worker.read_text()

    until(trains, "it does not train")
    state.write_text("SUSPENDING")
    os.kill(int((jobs[1] / "pid").read_text()), signal.SIGTERM)
    codes = [until(lambda j=j: (j / "exit").exists() and (j / "exit").read_text(), "no exit code")
             for j in jobs]  # fmt: skip
    assert codes == ["42\n", "42\n"]
    saved = int(re.search(r"saved at step (\d+)", (jobs[0] / "log").read_text())[1])
    assert saved < total
    state.write_text("SUSPENDED")

    assert sitter.wait(900) == 0, log.read_text()
    result = json.loads((workdir / "result.json").read_text())
    assert result["step"] == total
    kept = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in kept if m["kind"] == "train"] == list(range(1, total + 1))
    verbs = cloud.verbs()
    assert (verbs.count("create"), verbs.count("delete")) == (2, 2)
    uploaded = (tmp_path / "bucket/my-bucket/logs/train/t1v-n-0-w-0.log").read_text()
    assert f"resuming at step {saved}," in uploaded
    assert "exit code 0" in uploaded
    assert not state.exists()


@pytest.mark.slow
def test_jobs_on_workers_are_started_once_shown_and_stopped(workers, tmp_path):
    cloud, workdir = workers, tmp_path / "run"
    (tmp_path / "state").write_text("ACTIVE")
    train = ["--", "--arch", "xception", "--width-multiplier", "0.05", "--batch-size", "8",
             "--steps", "100000", "--log-every", "1", "--workdir", str(workdir)]  # fmt: skip
    assert cloud.run("status", "pod", *ZONE).stdout.splitlines()[-1] == "idle"
    assert cloud.run("stop", "pod", *ZONE).returncode == 0
    done = cloud.run("run", "pod", *ZONE, "--allow-dirty", *train)
    assert done.returncode == 1
    assert "setup.sh does it" in done.stderr
    done = cloud.run("setup", "pod", *ZONE, "--allow-dirty")
    assert done.returncode == 0, done.stderr
    done = cloud.run("run", "pod", *ZONE, "--allow-dirty", *train)
    assert done.returncode == 0, done.stderr
    pids = [(tmp_path / f"workers/{i}/inception_jax/jobs/train/pid").read_text() for i in (0, 1)]

    done = cloud.run("run", "pod", *ZONE, "--allow-dirty", *train)
    assert done.returncode == 0
    assert done.stdout.count("runs already") == 2
    done = cloud.run("run", "pod", *ZONE, "--allow-dirty", "--", "--arch", "inception_v3")
    assert done.returncode == 1
    assert "runs with other arguments" in done.stderr
    done = cloud.run("status", "pod", *ZONE)
    assert done.returncode == 3
    assert [line.split("pid=")[1] for line in done.stdout.splitlines()[:2]] == [
        pid.strip() for pid in pids
    ]

    def trains() -> bool:
        return "step 2/" in cloud.run("logs", "pod", *ZONE, "--lines", "1000").stdout

    until(trains, "it does not train")
    done = cloud.run("stop", "pod", *ZONE, "--grace", "300", seconds=400)
    assert done.returncode == 0, done.stderr
    assert cloud.run("status", "pod", *ZONE).returncode == 42
    assert list((workdir / "checkpoints").glob("[0-9]*"))

    # One that does not heed SIGTERM.
    cloud.run("run", "pod", *ZONE, "--allow-dirty", *train)
    pids = [int(p.read_text()) for p in tmp_path.glob("workers/*/inception_jax/jobs/train/pid")]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    assert cloud.run("stop", "pod", *ZONE, "--grace", "1").returncode == 0
    done = cloud.run("status", "pod", *ZONE)
    assert done.returncode == 1
    assert "state=exited code=137" in done.stdout
