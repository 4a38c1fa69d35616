"""What is loaded when: light start-up, and no deep-learning framework ever. Each case is a fresh process."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
HEAVY = {"numpy", "numba", "llvmlite", "scipy", "h5py", "soundfile", "tqdm", "matplotlib", "importlib.metadata"}

LIST_MODULES = "import json, sys; print('\\n' + json.dumps(sorted(sys.modules)))"
EVERYTHING = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import no_frameworks, everwave, numpy
model = everwave.random_model("tiny", backend="numpy")
audio = model.generate(seconds=0.2)
assert model.decode(model.encode(audio, model.sample_rate)).shape[1] == 2
"""


def modules_after(code: str) -> set[str]:
    result = subprocess.run(
        [sys.executable, "-c", code + "\n" + LIST_MODULES], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import everwave",
        "import everwave.cli",
        "import contextlib, everwave.cli\nwith contextlib.suppress(SystemExit): everwave.cli.main(['--help'])",
        "import contextlib, everwave.cli\nwith contextlib.suppress(SystemExit): everwave.cli.main(['generate', '--help'])",
        "import everwave; everwave.UsageError, everwave.ModelError",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    assert not modules_after(code) & HEAVY


def test_no_framework_is_needed_or_loaded() -> None:
    modules = modules_after(EVERYTHING)
    assert not {m.partition(".")[0] for m in modules} & {"tensorflow", "keras", "jax", "torch", "everwave_trainer"}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere kept code is loaded after Numba, for its helpers")
@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed")
def test_a_later_start_needs_no_compiler() -> None:
    """Importing Numba would take longer than all else."""
    start = "import everwave\nnext(everwave.random_model('tiny', threads=1).stream(seed=1))\n"
    modules_after(start)  # which may have compiled
    assert not {name.partition(".")[0] for name in modules_after(start)} & {"numba", "scipy"}


@pytest.mark.skipif(importlib.util.find_spec("numba") is None, reason="Numba is not installed")
def test_the_compiler_needs_no_linear_algebra() -> None:
    """Numba would import scipy.linalg, which takes longer than a kernel; and it must still have its BLAS later."""
    start = "from everwave.kernels.native import compiler\ncompiler()\n"
    assert "scipy.linalg" not in modules_after(start)
    product = "import numba, numpy\nassert numba.njit(lambda a: a @ a)(numpy.eye(2)).sum() == 2"
    assert "scipy.linalg" in modules_after(start + product)


def test_the_blocker_blocks() -> None:
    code = f"import sys; sys.path.insert(0, {str(HERE)!r}); import no_frameworks; import everwave_trainer"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "everwave_trainer is blocked" in result.stderr


def test_every_public_name_exists() -> None:
    import everwave

    for name in everwave.__all__:
        assert getattr(everwave, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = everwave.nonsense


@pytest.mark.parametrize("text", [None, "[tool.x]", '[project]\nname = "host"\nversion = "9"', "project = 1", "\x00"])
def test_the_version_of_code_that_was_copied_elsewhere(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As programs do that bring their libraries along: two folders up lies a pyproject.toml of theirs, or nothing."""
    import everwave

    def not_installed(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.setattr(importlib.metadata, "version", not_installed)
    assert everwave.__version__[0].isdigit()
    monkeypatch.setattr(everwave, "__file__", str(tmp_path / "vendored" / "everwave" / "__init__.py"))
    assert everwave.__version__ == "unknown"


def test_version_is_that_of_pyproject() -> None:
    import tomllib

    import everwave

    pyproject = HERE.parents[1] / "pyproject.toml"
    assert everwave.__version__ == tomllib.loads(pyproject.read_text())["project"]["version"]
