from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "supply.py"
PYTHON = f"Python {sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def site(tmp_path):
    """A folder of two installed packages, and what is recorded of them."""
    for name, version in (("red_ink", "1.0"), ("blue", "2.5")):
        install(tmp_path / "site", name, version, {f"{name}/__init__.py": "ink = 1\n"})
    (tmp_path / "requirements.lock").write_text(f"# {PYTHON}: versions\nRed.Ink==1.0\nblue==2.5\n")
    recorded = run(tmp_path, "--record").stdout
    (tmp_path / "requirements.record").write_text(recorded)
    return tmp_path


def install(site: Path, name: str, version: str, files: dict[str, str]) -> None:
    about = f"{name}-{version}.dist-info"
    files = files | {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    }
    lines = [f"{about}/RECORD,,", f"{about}/INSTALLER,sha256=x,3", "../bin/ink,sha256=x,3"]
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).decode()
        lines.append(f"{path},sha256={digest.rstrip('=')},{len(content)}")
    (site / about / "RECORD").write_text("\n".join(lines) + "\n")


def run(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), "--path", str(folder / "site"), "--lists", str(folder)]
    return subprocess.run([*command, *options], capture_output=True, text=True)


def said(folder: Path) -> str:
    done = run(folder)
    assert (done.returncode, done.stderr) == (1, "")
    return done.stdout


def test_what_is_as_recorded_passes(site):
    done = run(site)
    assert (done.returncode, done.stdout) == (0, "supply: 2 packages are as recorded\n")


def test_a_changed_file_is_named(site):
    (site / "site/red_ink/__init__.py").write_text("ink = 2\n")
    assert said(site) == "red-ink: red_ink/__init__.py was changed after it was installed\n"
    (site / "site/red_ink/__init__.py").unlink()
    assert "red-ink: red_ink/__init__.py is listed and not there" in said(site)


def test_another_package_under_the_same_version_is_noticed(site):
    install(site / "site", "blue", "2.5", {"blue/__init__.py": "import os\n"})
    assert said(site) == "blue: its files are not those in requirements.record\n"


def test_other_versions_and_packages_are_noticed(site):
    install(site / "site", "green", "1.0", {"green.py": ""})
    assert said(site) == "green: 1.0 is installed, and not in requirements.lock\n"
    (site / "requirements.lock").write_text(f"# {PYTHON}:\nred-ink==1.1\nblue==2.5\ngreen==1.0\n")
    assert "red-ink: 1.0 is installed, 1.1 in requirements.lock" in said(site)


def test_another_python_or_machine_is_said(site):
    record = site / "requirements.record"
    record.write_text(f"# {PYTHON} on Amiga 68000:\n")
    done = run(site)
    assert done.returncode == 0 and "recorded for another machine" in done.stdout
    (site / "requirements.lock").write_text("# Python 3.9: versions\n")
    done = run(site)
    assert done.returncode == 0 and "listed for another Python" in done.stdout


def test_what_is_listed_is_recorded():
    lists = [(SCRIPT.parents[1] / f"requirements.{end}").read_text() for end in ("lock", "record")]
    locked, recorded = (
        {line.split(" ")[0].lower() for line in text.splitlines()[1:]} for text in lists
    )
    normal = lambda names: {name.replace("_", "-").replace(".", "-") for name in names}  # noqa: E731
    assert normal(recorded) <= normal(locked)
