#!/usr/bin/env python3
"""Checks infra/: `.ci/terraform.py prepare|format|validate|apply`, in this order, from the repository's root.

prepare   finds terraform and the AWS provider. Exit 77, with the reason on standard output, if either cannot be had.
          The provider comes from TERRAFORM_MIRROR (a folder with registry.terraform.io in it), else from such a folder
          in one of the places where people put them, else from the network.
format    terraform fmt -check
validate  terraform validate
apply     plans, applies to an emulator, sends an upload through, plans again, destroys

The emulator is that of the tests (tests/common/ministack). What it is known not to do stands in KNOWN_DRIFT below and in
.ci/terraform/unsupported_override.tf; anything else that differs is a fault.
"""

import fcntl
import glob
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
INFRA = ROOT / "infra"
PLACE = ROOT / "target" / "terraform"
CLI_CONFIG = PLACE / "cli.tfrc"
EMULATOR = ROOT / "tests" / "common" / "ministack"
REGION = "us-west-2"  # that of example.tfvars

CANNOT_BE_CHECKED = 77

# Where Terraform itself looks for mirrors, and where images of build machines have them.
USUAL_MIRRORS = (
    "~/.terraform.d/plugins",
    "~/.terraform.d/plugin-cache",
    "~/.local/share/terraform/plugins",
    "/usr/local/share/terraform/plugins",
    "/usr/share/terraform/plugins",
    "/usr/local/lib/*",
    "/usr/lib/*",
    "/usr/share/*",
    "/usr/local/share/*",
    "/opt/*",
    "/opt/*/*",
    "/srv/*",
)

# What the emulator does not give back, by type: a second plan wants to set just that again.
KNOWN_DRIFT = {
    "aws_cloudwatch_metric_alarm": {
        "actions_enabled",
        "alarm_description",
        "dimensions",
        "period",
        "statistic",
        "treat_missing_data",
    },
    "aws_ecs_service": {"availability_zone_rebalancing"},
}

WORKERS = {
    "worker_image": "registry.invalid/aquifer:0",
    "subnets": '["subnet-00000000000000000"]',
    "spot_percent": "50",
}


class Failed(Exception):
    """Something is wrong with infra/, or could not be carried out."""


# ------------------------------------------------------------------------------------------------------- terraform


def environment(**more):
    """That of a machine on which nobody has set anything up: no variables of Terraform's, no credentials."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("TF_", "AWS_", "TERRAFORM_"))}
    return clean | {
        "TF_CLI_CONFIG_FILE": str(CLI_CONFIG),
        "TF_DATA_DIR": str(PLACE / "data"),
        "TF_IN_AUTOMATION": "1",
        "TF_INPUT": "0",
        "CHECKPOINT_DISABLE": "1",
        # Nothing here may reach a real account.
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CONFIG_FILE": os.devnull,
    } | more


def terraform(where, *arguments, env=None, accept=(0,), timeout=900):
    """Its exit status, and all that it said."""
    command = ["terraform", f"-chdir={where}", *arguments, "-no-color"]
    began = time.monotonic()
    run = subprocess.run(command, env=env or environment(), capture_output=True, text=True, timeout=timeout)
    # Where it is JSON, a warning must not get in between.
    said = run.stdout if run.returncode == 0 else run.stdout + run.stderr
    if run.returncode not in accept:
        raise Failed(f"terraform {' '.join(arguments)}: exit {run.returncode}\n{said[-4000:]}")
    print(f"terraform {arguments[0]}: {time.monotonic() - began:.0f} s")
    return run.returncode, said


def lay_out(name, *overrides):
    """A copy of infra/, so that nothing is left behind there, with overrides laid over it."""
    work = PLACE / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for source in [*INFRA.glob("*.tf"), *(ROOT / ".ci" / "terraform" / override for override in overrides)]:
        shutil.copy(source, work)
    # It fills in the definitions that lie beside it.
    shutil.copytree(ROOT / "statemachine", PLACE / "statemachine", dirs_exist_ok=True)
    return work


def variables(values):
    return [f"-var={name}={value}" for name, value in values.items()]


# --------------------------------------------------------------------------------------------------------- prepare


def prepare():
    if not shutil.which("terraform"):
        print("there is no terraform on the path")
        return CANNOT_BE_CHECKED
    PLACE.mkdir(parents=True, exist_ok=True)
    told = os.environ.get("TERRAFORM_MIRROR")
    mirror = mirror_in(told) if told else next(filter(None, map(mirror_in, USUAL_MIRRORS)), None)
    if told and not mirror:
        raise Failed(f"TERRAFORM_MIRROR={told} holds no registry.terraform.io")
    source = f"filesystem_mirror {{\n    path = {json.dumps(mirror)}\n  }}" if mirror else "direct {}"
    CLI_CONFIG.write_text(f"provider_installation {{\n  {source}\n}}\n")
    try:
        terraform(lay_out("validate"), "init", "-backend=false", timeout=300)
    except (Failed, subprocess.TimeoutExpired) as error:
        if told:
            raise
        where = f"the mirror {mirror}" if mirror else "the network, and no mirror was found (TERRAFORM_MIRROR names one)"
        print(f"the AWS provider could not be had from {where}:\n{error}")
        return CANNOT_BE_CHECKED
    return 0


def mirror_in(pattern):
    for folder in sorted(glob.glob(os.path.expanduser(pattern))):
        if os.path.isdir(os.path.join(folder, "registry.terraform.io", "hashicorp", "aws")):
            return folder
    return None


def check_format():
    for folder in (INFRA, ROOT / ".ci" / "terraform"):
        terraform(folder, "fmt", "-check", "-diff", "-recursive")


def validate():
    terraform(lay_out("validate"), "init", "-backend=false")
    terraform(PLACE / "validate", "validate")


# ----------------------------------------------------------------------------------------------------------- apply


def apply():
    with Emulator() as emulator:
        env = environment(AWS_ENDPOINT_URL=emulator.url, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")
        example = [f"-var-file={INFRA / 'example.tfvars'}", "-var=protect=false"]
        everything = [*example, *variables(WORKERS)]

        work = lay_out("work", "ministack_override.tf")
        terraform(work, "init", env=env)
        planned = changes(work, env, *everything)
        scaling = sorted(change["type"] for change in planned if change["type"].startswith("aws_appautoscaling"))
        if scaling != ["aws_appautoscaling_policy", "aws_appautoscaling_target"]:
            raise Failed(f"a plan with workers scales by {scaling}")
        by_rule = {change["type"] for change in changes(work, env, *everything, "-var=upload_events=eventbridge")}
        if not {"aws_cloudwatch_event_rule", "aws_cloudwatch_event_target"} <= by_rule:
            raise Failed("uploads by EventBridge are planned without its rule")
        without = {change["type"] for change in changes(work, env, *example)}
        if "aws_ecs_service" in without:
            raise Failed("a plan without an image makes workers")
        # A result that is an upload has a result that is an upload.
        _, said = terraform(work, "plan", *example, "-var=upload_prefix=aquifer/results/", env=env, accept=(1,))
        if "must not lie within each other" not in said:
            raise Failed(f"uploads among our own results are refused for another reason:\n{said[-2000:]}")

        shutil.copy(ROOT / ".ci" / "terraform" / "unsupported_override.tf", work)
        try:
            terraform(work, "apply", "-auto-approve", *everything, env=env)
            _, applied = terraform(work, "state", "list", env=env)
            print(f"applied: {len(resources(applied))} resources")
            _, said = terraform(work, "output", "-json", env=env)
            toml = json.loads(said)["aquifer_toml"]["value"]
            an_upload_becomes_a_message(emulator, toml)
            drift(changes(work, env, *everything))
        finally:
            terraform(work, "destroy", "-auto-approve", *everything, env=env)
        _, left = terraform(work, "state", "list", env=env)
        if resources(left):
            raise Failed(f"destroy left behind:\n{left}")


def resources(listed):
    return [line for line in listed.splitlines() if line and not line.startswith("data.")]


def changes(work, env, *arguments):
    """What a plan would change."""
    terraform(work, "plan", f"-out={PLACE / 'plan'}", *arguments, env=env)
    _, said = terraform(work, "show", "-json", str(PLACE / "plan"), env=env)
    return [change for change in json.loads(said)["resource_changes"] if change["change"]["actions"] not in (["no-op"], ["read"])]


def drift(changed):
    wrong = []
    for change in changed:
        before, after = change["change"]["before"] or {}, change["change"]["after"] or {}
        differ = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        unknown = differ - KNOWN_DRIFT.get(change["type"], set())
        if unknown or change["change"]["actions"] != ["update"]:
            wrong.append(f"{change['address']}: {change['change']['actions']} {sorted(unknown)}")
    if wrong:
        raise Failed("a second plan differs:\n" + "\n".join(wrong))
    types = sorted({change["type"] for change in changed})
    print(f"second plan: no drift but what the emulator is known for ({len(changed)} of {', '.join(types)})")


def an_upload_becomes_a_message(emulator, toml):
    """Of three objects, the one below the upload prefix is told of in the queue."""
    setting = dict(line.split(" = ", 1) for line in toml.splitlines() if " = " in line)
    bucket, queue = json.loads(setting["bucket"]), json.loads(setting["queue_url"])
    for key in ("inbox/a.txt", "elsewhere/b.txt", "aquifer/results/c.txt"):
        emulator.call("s3", f"/{bucket}/{key}", data=b"text", method="PUT")
    told = []
    deadline = time.monotonic() + 10
    while "inbox/a.txt" not in told and time.monotonic() < deadline:
        reply = emulator.call(
            "sqs",
            "/",
            data=json.dumps({"QueueUrl": queue, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 1}).encode(),
            headers={"X-Amz-Target": "AmazonSQS.ReceiveMessage", "Content-Type": "application/x-amz-json-1.0"},
        )
        for message in json.loads(reply).get("Messages", []):
            told += [record["s3"]["object"]["key"] for record in json.loads(message["Body"]).get("Records", [])]
    if told != ["inbox/a.txt"]:
        raise Failed(f"the queue was told of {told}, not of inbox/a.txt alone")
    print("an upload became a message, and only that")


class Emulator:
    """ministack, for as long as this process lives."""

    def __enter__(self):
        scratch = PLACE / "emulator"
        scratch.mkdir(parents=True, exist_ok=True)
        log = open(scratch / "log", "w", encoding="utf-8")
        # It would start the workers, if it found a Docker.
        env = {"PATH": os.environ["PATH"], "TMPDIR": str(scratch), "DOCKER_HOST": "unix:///nowhere"}
        self.process = subprocess.Popen(
            [install(), EMULATOR / "serve.py"],
            env=env,
            cwd=scratch,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        port = self.process.stdout.readline().strip()
        if not port.isdigit():
            raise Failed(f"ministack did not start, see {log.name}")
        self.url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while not self.healthy():
            if time.monotonic() > deadline:
                self.__exit__()
                raise Failed(f"ministack is not well after 60 s, see {log.name}")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        # It ends with its standard input.
        self.process.stdin.close()
        self.process.wait(timeout=30)

    def healthy(self):
        try:
            return self.call("s3", "/_ministack/health") is not None
        except OSError:
            return False

    def call(self, service, path, data=None, method=None, headers=None):
        # It reads service and region from where a signature would name them.
        scope = f"Credential=test/20260101/{REGION}/{service}/aws4_request"
        signed = {"Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=signed | (headers or {}))
        # No proxy stands between us and this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as reply:
            return reply.read()


def install():
    """The Python that has ministack: that of the tests, made as they make it where it is not there yet."""
    root = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "tmp"
    root.mkdir(parents=True, exist_ok=True)
    place, wanted = root / "ministack", EMULATOR / "requirements.txt"
    with open(root / "ministack.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python, stamp = place / "bin" / "python", place / "installed.txt"
        if not (stamp.exists() and stamp.read_bytes() == wanted.read_bytes()):
            venv.create(place, clear=True, with_pip=True)
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
            subprocess.run([*pip, "--only-binary", ":all:", "-r", wanted], check=True)
            stamp.write_bytes(wanted.read_bytes())
    return python


def main():
    steps = {"prepare": prepare, "format": check_format, "validate": validate, "apply": apply}
    if len(sys.argv) != 2 or sys.argv[1] not in steps:
        sys.exit(__doc__)
    try:
        sys.exit(steps[sys.argv[1]]())
    except (Failed, subprocess.SubprocessError, urllib.error.URLError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")


main()
