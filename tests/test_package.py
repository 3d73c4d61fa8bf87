"""The package builds, holds what it should and no more, and runs where it is installed."""

import importlib.util
import pathlib
import subprocess
import sys
import zipfile

import pytest

from ofmu_jax.version import __version__

ROOT = pathlib.Path(__file__).parent.parent
_LARGEST = 100_000

pytestmark = pytest.mark.slow


def run(*command, **options):
    words = [str(part) for part in command]
    done = subprocess.run(words, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def known_files(*folders):
    """What git tracks or would track, so that nothing that lies about gets in."""
    shown = run("git", "ls-files", "--cached", "--others", "--exclude-standard", *folders, cwd=ROOT)
    return [name for name in shown.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    for name, oldest in (("build", "1.2"), ("setuptools", "77")):
        pytest.importorskip(name, oldest, reason="the extra `lint` is not installed")
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    for name in known_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    # Through the source distribution, as `python -m build` does; the backend is already here.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", source)
    (found,) = (folder / "dist").glob("*.whl")
    return found


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
    info = f"ofmu_jax-{__version__}.dist-info/"
    metadata = {name for name in files if name.startswith(info)}
    assert f"{info}licenses/LICENSE" in metadata
    assert set(files) - metadata == set(known_files("ofmu_jax"))
    kinds = {pathlib.Path(name).suffix for name in set(files) - metadata}
    assert kinds <= {".py", ".typed", ".jinja"}
    assert max(files.values()) < _LARGEST  # no data, whatever its name


def test_the_wheel_installs_and_runs_outside_the_repository(wheel, tmp_path):
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "--no-deps", "--no-index", wheel)
    # What it depends on comes from the environment of the tests, whose own .pth files, among them
    # that of an editable installation, are not read in this way.
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    dependencies = pathlib.Path(importlib.util.find_spec("jax").origin).parents[1]
    (site / "dependencies.pth").write_text(f"{dependencies}\n", encoding="utf-8")
    where = run(python, "-c", "import ofmu_jax; print(ofmu_jax.__file__)", cwd=tmp_path)
    assert pathlib.Path(where.strip()).is_relative_to(tmp_path)
    shown = run(tmp_path / "venv" / "bin" / "ofmu", "--help", cwd=tmp_path)
    assert f"ofmu {__version__}" in shown and "images train" in shown
