"""Runs the common tests of the installed transformers on this package's classes; see `tests/hf_suite/suite.py`.

The tests are in the source distribution only, which pip downloads once, to `build/transformers_tests`.
"""

import importlib.metadata
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What the tests import and the source distribution lacks.
STUBS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
}


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def prepare(folder: Path, version: str) -> None:
    """Makes the package `transformers_tests` in a folder, next to what it needs."""
    with tempfile.TemporaryDirectory() as temporary:
        pip("download", "--no-deps", "--no-binary", "transformers", "--dest", temporary, f"transformers=={version}")
        pip("install", "--target", str(folder), "parameterized")
        with tarfile.open(Path(temporary, f"transformers-{version}.tar.gz")) as archive:
            for member in archive.getmembers():
                name = member.name.partition("/tests/")[2]
                if name.endswith(".py") and "/" not in name and (file := archive.extractfile(member)):
                    place(folder / "transformers_tests" / name, file.read().decode())
    for name, text in STUBS.items():
        place(folder / "transformers_tests" / name, text)
    place(folder / "transformers_tests" / "__init__.py", "")  # the last one: all is there


def place(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    version = importlib.metadata.version("transformers")
    folder = ROOT / "build" / "transformers_tests" / version
    if not (folder / "transformers_tests" / "__init__.py").exists():
        try:
            prepare(folder, version)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"SKIPPED: the source distribution of transformers {version} could not be downloaded ({error})")
            return 0
    paths = [str(folder), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "tests/hf_suite/suite.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
