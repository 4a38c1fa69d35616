"""A few damaged files for every command that reads some; `python tests/runtime/fuzz.py --cases 3000` is the long run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cases are forked")
def test_damaged_files_are_refused_in_one_line() -> None:
    words = [sys.executable, Path(__file__).with_name("fuzz.py"), "--cases", "60"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["cases"] == 60
