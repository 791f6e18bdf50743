"""`make test-hf` runs the suite; other runs lack the tests of transformers that it imports."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("transformers_tests") else ["suite.py"]
