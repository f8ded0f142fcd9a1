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


def copy_tests(target, names):
    """Copies test programs of the root package or of a room, as Cargo links them."""
    command = ["cargo", "test", "--locked", "--workspace", "--no-run", "--message-format=json"]
    command += [word for name in names for word in ("--test", name)]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in built.stdout.splitlines() if line.startswith("{")]
    for name in names:
        # A room's tests may have the same name as those of the root package, which come first.
        places = [ROOT / "tests" / name / "main.rs", ROOT / "src" / name / "tests" / name / "main.rs"]
        source = str(next(place for place in places if place.exists()))
        program = next(m["executable"] for m in messages
                       if m.get("reason") == "compiler-artifact" and m["target"]["src_path"] == source)
        shutil.copy(program, pathlib.Path(target) / name)


def copy_plugins(target):
    """Copies the reference CNI plugins, which are static too."""
    subprocess.run([ROOT / "tests/tools/cni/build"], check=True)
    shutil.copytree(ROOT / "tests/tools/bin/cni", pathlib.Path(target) / "plugins")
