#!/usr/bin/env python3
"""Checks statemachine/ with validators that are not ours: `.ci/definitions.py install|check`, from the repository's root.

install   asl-validator, from npm, and cfn-lint, from PyPI, below target/definitions, pinned by digest in .ci/definitions.
          npm is that of the PATH, else one from PyPI, as for the page's browser.
check     each definition as it stands and with its placeholders filled in, by both. cfn-lint reads templates, so that one
          is made around it. Both must also refuse faults that are planted: a validator that accepts everything says nothing.

What neither sees (an action that does not exist, a task without Retry) is for tests/infra/definitions.
"""

import copy
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
PINNED = ROOT / ".ci" / "definitions"
PLACE = ROOT / "target" / "definitions"
WORK = PLACE / "work"
EXPRESS = {"express-inference"}

sys.path.insert(0, str(ROOT / "tests" / "common" / "chromium"))
from install import node_and_npm  # noqa: E402

# What Terraform would fill in.
VALUES = {
    "bucket": "acme-inference",
    "keep_seconds": "2592000",
    "model": "haiku",
    "model_id": "us.anthropic.claude-haiku-4-5-20251001-v1:0",
    "prefix": "aquifer/",
    "queue_url": "https://sqs.us-west-2.amazonaws.com/123456789012/aquifer",
    "table": "aquifer",
    "topic_arn": "arn:aws:sns:us-west-2:123456789012:aquifer-notices",
}


class Failed(Exception):
    """A definition is wrong, or a validator could not be had or trusted."""


# --------------------------------------------------------------------------------------------------------- install


def install():
    stamp = PLACE / "installed"
    wanted = "".join((PINNED / name).read_text() for name in ("package-lock.json", "requirements.txt"))
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    venv.create(PLACE / "python", with_pip=True)
    pip = [PLACE / "python" / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run([*pip, "--require-hashes", "--only-binary", ":all:", "-r", PINNED / "requirements.txt"])
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PINNED / name, PLACE)
    node, npm = node_and_npm(PLACE)
    run([*npm, "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=PLACE)
    (PLACE / "node.json").write_text(json.dumps(node))
    stamp.write_text(wanted)


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: exit {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}")


# ----------------------------------------------------------------------------------------------------------- check


def check():
    WORK.mkdir(exist_ok=True)
    files = sorted((ROOT / "statemachine").glob("*.asl.json"))
    if len(files) < 3:
        raise Failed(f"found only {files}")
    complaints = []
    for file in files:
        name = file.name.removesuffix(".asl.json")
        text = file.read_text()
        for form, definition in (("as it stands", json.loads(text)), ("filled in", json.loads(filled_in(text)))):
            for validator in (asl_validator, cfn_lint):
                said = validator(name, definition)
                if said:
                    complaints.append(f"{file.name}, {form}, {validator.__name__}:\n{said}")
        print(f"{file.name}: {len(json.loads(text)['States'])} states")
    complaints += planted(json.loads(filled_in(files[0].read_text())))
    if complaints:
        raise Failed("\n".join(complaints))
    print("asl-validator and cfn-lint have nothing to say, but of the faults that were planted")


def filled_in(text):
    def value(found):
        if found[1] not in VALUES:
            raise Failed(f"nobody fills in {found[0]}")
        return VALUES[found[1]]

    return re.sub(r"\$\{(\w+)\}", value, text)


def asl_validator(name, definition):
    """What it says against a definition; nothing, if it is sound."""
    file = write(f"{name}.json", definition)
    node = json.loads((PLACE / "node.json").read_text())
    program = PLACE / "node_modules" / "asl-validator" / "dist" / "bin" / "asl-validator.js"
    return said([*node, program, "--json-path", file])


def cfn_lint(name, definition):
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Resources": {
            "Machine": {
                "Type": "AWS::StepFunctions::StateMachine",
                "Properties": {
                    "StateMachineType": "EXPRESS" if name in EXPRESS else "STANDARD",
                    "RoleArn": "arn:aws:iam::123456789012:role/aquifer-workflows",
                    "DefinitionString": json.dumps(definition),
                    "DefinitionSubstitutions": dict(VALUES),
                },
            }
        },
    }
    used = set(re.findall(r"\$\{(\w+)\}", json.dumps(definition)))
    substitutions = template["Resources"]["Machine"]["Properties"]["DefinitionSubstitutions"]
    for unused in VALUES.keys() - used:
        del substitutions[unused]
    if not substitutions:
        del template["Resources"]["Machine"]["Properties"]["DefinitionSubstitutions"]
    file = write(f"{name}.template.json", template)
    return said([PLACE / "python" / "bin" / "cfn-lint", "--regions", "us-west-2", "--template", file])


def write(name, content):
    file = WORK / name
    file.write_text(json.dumps(content, indent=2))
    return file


def said(command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={"PATH": os.environ["PATH"]})
    return (done.stdout + done.stderr).strip() or f"exit {done.returncode}" if done.returncode else ""


# --------------------------------------------------------------------------------------------------------- planted


def planted(sound):
    """Which validator does not see which fault that it is there to see."""
    task = next(name for name, state in sound["States"].items() if state["Type"] == "Task")

    def nowhere(states):
        states[task]["Next"] = "Nowhere"

    def no_resource(states):
        del states[task]["Resource"]

    def other_language(states):
        states[task]["ResultPath"] = "$.result"

    def no_such_type(states):
        states[task]["Type"] = "Tusk"

    unseen = []
    for fault in (nowhere, no_resource, other_language, no_such_type):
        broken = copy.deepcopy(sound)
        fault(broken["States"])
        for validator in SEES[fault.__name__]:
            if not validator("planted", broken):
                unseen.append(f"{validator.__name__} does not see the planted fault `{fault.__name__}`")
    return unseen


SEES = {
    "nowhere": (asl_validator,),
    "no_resource": (asl_validator, cfn_lint),
    "other_language": (asl_validator, cfn_lint),
    "no_such_type": (asl_validator, cfn_lint),
}


def main():
    steps = {"install": install, "check": check}
    if len(sys.argv) != 2 or sys.argv[1] not in steps:
        sys.exit(__doc__)
    try:
        steps[sys.argv[1]]()
    except (Failed, subprocess.SubprocessError, OSError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")


main()
