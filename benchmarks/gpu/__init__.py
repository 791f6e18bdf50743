"""The parts of `benchmarks/gpu_check.py`. They use the package of this checkout, installed or not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
