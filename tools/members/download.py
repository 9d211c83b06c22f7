"""Fetches published packages and keeps their source files: `.parts/members/NAME-VERSION/`."""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / ".parts" / "members"
# What is kept of an archive. Compiled code, weights and data stay in it.
KEPT = (".py", ".pyi")
KEPT_IN_SOURCES = ("tools/server/",)


def package(requirement):
    """The folder with the source files of `NAME==VERSION`, downloaded if it is not there."""
    name, _, version = requirement.partition("==")
    if not version:
        raise SystemExit(f"members: `{requirement}` has no version; write NAME==VERSION")
    folder = CACHE / f"{name}-{version}"
    if (folder / ".complete").is_file():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        pip = [sys.executable, "-m", "pip"]
        if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode:
            pip = [str(ROOT / ".parts" / "bin" / "pip")]
        print(f"members: downloading {requirement}", file=sys.stderr)
        done = subprocess.run(
            [*pip, "download", "--no-deps", "--quiet", "--disable-pip-version-check", "--dest", work, requirement],
            capture_output=True,
            text=True,
            check=False,
        )
        archives = [path for path in pathlib.Path(work).iterdir() if path.is_file()]
        if done.returncode or len(archives) != 1:
            raise SystemExit(f"members: `{requirement}` was not downloaded:\n{done.stderr.strip()}")
        shutil.rmtree(folder, ignore_errors=True)
        unpack(archives[0], folder)
    (folder / ".complete").touch()
    return folder


def unpack(archive, folder):
    """Writes the kept files of a wheel or a source archive below `folder`."""
    if archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as files:
            for entry in files.infolist():
                if entry.filename.endswith(KEPT):
                    write(folder, entry.filename, files.read(entry))
        return
    with tarfile.open(archive) as files:
        for entry in files:
            inside = entry.name.partition("/")[2]
            if entry.isfile() and (inside.endswith(KEPT) or any(part in inside for part in KEPT_IN_SOURCES)):
                if inside.endswith((".py", ".pyi", ".cpp", ".h")):
                    write(folder, inside, files.extractfile(entry).read())


def write(folder, name, content):
    target = (folder / name).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise SystemExit(f"members: an archive holds `{name}`, which is outside its folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
