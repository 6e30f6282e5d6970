"""Whether what is installed is what was recorded: versions, files, and no other package.

    python .ci/supply.py            # says what differs, and fails if anything does
    python .ci/supply.py --record   # writes what is recorded, for requirements.record

It needs no network. A package's files are compared with the hashes that came with it (RECORD), and
these with the ones that were recorded when the versions were chosen, so that neither a file that
was changed later nor another package under the same version goes unnoticed. On another version of
Python, for which `make` resolves versions afresh, the files alone are compared; on another kind of
machine, where other files are installed, the versions and the files.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import importlib.metadata
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
NOT_LISTED = {"pip", "setuptools", "wheel", "jc2i"}
# What an installer writes, or writes anew: these are no part of what was published.
WRITTEN = re.compile(
    r"^\.\.|__pycache__|\.dist-info/(INSTALLER|REQUESTED|RECORD|direct_url\.json|uv_cache\.json)$"
)


def main() -> None:
    """Compares, or records."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--path", help="another folder of installed packages")
    parser.add_argument("--lists", type=Path, default=ROOT, help="the folder of requirements.*")
    options = parser.parse_args()
    found = dict(installed(options.path))
    if options.record:
        print(f"# {machine()}: the hash of each package's list of files; written by `make lock`")
        for name, package in found.items():
            print(f"{name}=={package.version} {list_hash(package)}")
        return
    problems = [problem for name in found for problem in changed_files(name, found[name])]
    problems += differences(found, options.lists)
    print("\n".join(problems) or f"supply: {len(found)} packages are as recorded")
    sys.exit(bool(problems))


def machine() -> str:
    """What the files of packages depend on."""
    return f"{python()} on {platform.system()} {platform.machine()}"


def python() -> str:
    """The version that versions of packages are resolved for."""
    return f"Python {sys.version_info.major}.{sys.version_info.minor}"


def normal(name: str) -> str:
    """A package's name in the one spelling of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(path: str | None) -> Iterator[tuple[str, importlib.metadata.Distribution]]:
    """The packages of this environment by name, but this one and the installer's."""
    folders = [path] if path else sys.path
    packages = {
        normal(package.name): package
        for package in importlib.metadata.distributions(path=folders)
        if normal(package.name) not in NOT_LISTED
    }
    yield from sorted(packages.items())


def own_files(
    package: importlib.metadata.Distribution,
) -> Iterator[importlib.metadata.PackagePath]:
    """The files that were published."""
    return (file for file in package.files or [] if not WRITTEN.search(file.as_posix()))


def list_hash(package: importlib.metadata.Distribution) -> str:
    """Of the paths and hashes of the files that were published."""
    lines = sorted(f"{f.as_posix()},{f.hash.value if f.hash else ''}\n" for f in own_files(package))
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def changed_files(name: str, package: importlib.metadata.Distribution) -> Iterator[str]:
    """What differs between a package's files and its list of them."""
    if not package.files:
        yield f"{name}: has no list of its files"
    for file in own_files(package):
        if file.hash is None:
            yield f"{name}: {file} is listed without a hash"
            continue
        try:
            with open(str(file.locate()), "rb") as content:
                digest = hashlib.file_digest(content, file.hash.mode).digest()
        except OSError as error:
            yield f"{name}: {file} is listed and not there ({error.strerror})"
            continue
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
            yield f"{name}: {file} was changed after it was installed"


def differences(found: dict[str, importlib.metadata.Distribution], lists: Path) -> Iterator[str]:
    """What differs between the packages and what is recorded of them."""
    lock, record = (
        (lists / name).read_text().splitlines()
        for name in ("requirements.lock", "requirements.record")
    )
    if not lock[0].startswith(f"# {python()}:"):
        print(f"supply: the versions are listed for another Python: {lock[0]}")
        return
    versions = dict(entry(line) for line in lock[1:])
    hashes = {}
    for line in record[1:]:
        name, rest = entry(line)
        hashes[name] = tuple(rest.split())
    same_machine = record[0].startswith(f"# {machine()}:")
    if not same_machine:
        print(f"supply: the files are recorded for another machine: {record[0]}")
    for name, package in found.items():
        if name not in versions:
            yield f"{name}: {package.version} is installed, and not in requirements.lock"
        elif versions[name] != package.version:
            yield f"{name}: {package.version} is installed, {versions[name]} in requirements.lock"
        elif same_machine and hashes.get(name) != (package.version, list_hash(package)):
            yield f"{name}: its files are not those in requirements.record"


def entry(line: str) -> tuple[str, str]:
    """The name in a line `name==version ...`, and the rest."""
    name, rest = line.split("==", 1)
    return normal(name), rest


if __name__ == "__main__":
    main()
