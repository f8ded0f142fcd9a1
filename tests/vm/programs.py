"""The programs that go into a guest: as deploy/build made them, static, so that they run in any."""

import json
import os
import pathlib
import shutil
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]


def copy(target, names):
    """Copies programs of deploy/build into a folder, and makes the guest's image and them if need be."""
    subprocess.run([ROOT / "tests/vm/image"], check=True)
    directory = os.environ.get("CORACLE_BIN_DIR")
    if not directory:
        built = subprocess.run([ROOT / "deploy/build"], check=True, stdout=subprocess.PIPE, text=True)
        directory = built.stdout.splitlines()[-1]
    for name in names:
        shutil.copy(pathlib.Path(directory) / name, target)


def copy_node_tests(target):
    """Copies the test program of tests/node, as Cargo links it."""
    command = ["cargo", "test", "--locked", "--workspace", "--test", "node", "--no-run", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    # The monitor's tests have the same name: the whole node's are of the root package.
    tests = [m["executable"] for m in messages if m.get("reason") == "compiler-artifact" and m["target"]["name"] == "node"
             and m["target"]["src_path"] == str(ROOT / "tests/node/main.rs")]
    shutil.copy(tests[0], pathlib.Path(target) / "node")
