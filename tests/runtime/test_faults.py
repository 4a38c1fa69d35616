"""What goes wrong on real machines, caused for real: nothing hangs, what was written is valid, the error is one line.

docs/faults.md is the table of these. Processes are fresh ones, with a time limit that a hang would break.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import everwave
import numpy as np
import pytest
import soundfile
from everwave import audio, philox, weights
from everwave.config import PRESETS

RUNTIME = Path(everwave.__file__).parents[1]
LIMIT = 120  # seconds, for a process that should need a few

linux = pytest.mark.skipif(sys.platform != "linux", reason="done with Linux's own means")


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EVERWAVE_PATH", "numpy")  # no compilation
    monkeypatch.setenv("PYTHONPATH", str(RUNTIME))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "tiny.h5"
    weights.write(path, weights.random_model(PRESETS["tiny"], seed=1))
    return str(path)


@pytest.fixture(scope="module")
def model() -> everwave.Model:
    return everwave.random_model("tiny", threads=2, backend="numpy")


def run(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, timeout=LIMIT, check=False, **options)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "everwave", *arguments]


def python(code: str, **options) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-c", code, **options)


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stderr.startswith("everwave: ")
    return result.stderr


def unprivileged() -> list[str]:
    """The words before a command that lets it read and write only what file modes allow."""
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if drop and (shutil.which("setpriv") is None or run(*drop, "true").returncode):
        pytest.skip("root's right to read and write everything cannot be dropped here")
    return drop


# -- disks -----------------------------------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_a_full_disk(tiny: str, tmp_path: Path, ending: str) -> None:
    """A tmpfs of 700 kB; `stream`, as nothing is known of its length beforehand."""
    if run("unshare", "-m", "true").returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    steps = 'set -e; mount -t tmpfs -o size=700k none "$0"; set +e; "$@"; code=$?; cp -a "$0"/. "$0".kept; exit $code'
    disk, kept = tmp_path / "disk", tmp_path / "disk.kept"
    disk.mkdir()
    kept.mkdir()
    arguments = command("stream", "--model", tiny, "--seed", "7", "-o", str(disk / f"out.{ending}"))
    result = run("unshare", "-m", "sh", "-c", steps, str(disk), *arguments)
    assert result.returncode == 1, result.stderr
    assert "the disk is full" in one_line(result)
    assert os.listdir(kept) == [f"out.{ending}"]
    samples, rate = audio.read(kept / f"out.{ending}")
    whole = everwave.load(tiny).generate(1.0, seed=7)
    assert len(samples) > rate
    np.testing.assert_allclose(samples[: len(whole)], whole, atol=3.1e-5)


@linux
def test_killed_while_it_writes(tiny: str) -> None:
    """`kill -9` leaves the unfinished file under its working name; as a WAV it can be played as it is."""
    process = subprocess.Popen(command("stream", "--model", tiny, "--seed", "7", "-o", "out.wav"))
    deadline = time.monotonic() + LIMIT
    while sum(p.stat().st_size for p in Path().iterdir()) < 400_000 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait(LIMIT) == -signal.SIGKILL
    (left,) = Path().iterdir()
    assert left.name == f".out.wav.{process.pid}-0.part"
    samples = audio.read(left)[0]
    np.testing.assert_allclose(samples[:44100], everwave.load(tiny).generate(1.0, seed=7), atol=3.1e-5)


@linux
@pytest.mark.parametrize("words", [["generate", "--seconds", "1"], ["encode", "in.wav"]], ids=lambda words: words[0])
def test_a_file_that_cannot_be_replaced(tiny: str, words: list[str]) -> None:
    """Containers mount single files: they can be written to but not replaced, and the finished work is kept beside them."""
    if run("unshare", "-m", "true").returncode:
        pytest.skip("nothing can be mounted here")
    output = "out.wav" if words[0] == "generate" else "out.h5"
    soundfile.write("in.wav", np.zeros((4410, 2)), 44100)
    for name in ("mounted", output):
        Path(name).touch()
    mounted = f'mount --bind mounted {output} && exec "$@"'
    overwrite = ["--overwrite"] * (words[0] == "encode")
    arguments = command(*words, "--model", tiny, "-o", output, *overwrite)
    result = run("unshare", "-m", "sh", "-c", mounted, "sh", *arguments)
    assert result.returncode == 1
    (part,) = Path().glob(".*.part")
    assert (
        f"{output}: cannot be replaced (Device or resource busy); the finished file is {part.absolute()}"
        in one_line(result)
    )
    assert Path(output).stat().st_size == 0
    if output == "out.wav":
        assert len(audio.read(part)[0]) == 44100
    else:
        assert part.read_bytes().startswith(b"\x89HDF")


@linux
def test_a_reader_that_leaves(tiny: str) -> None:
    result = run("sh", "-c", '"$@" | head -c 1000 >head; echo done >&2', "sh", *command("stream", "--model", tiny))
    assert result.stderr == "done\n"
    assert Path("head").stat().st_size == 1000


@pytest.fixture(scope="module")
def read_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an installation that nobody may write to has in its site-packages."""
    folder = tmp_path_factory.mktemp("install")
    shutil.copytree(Path(everwave.__file__).parent, folder / "everwave", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


NORMALS = """
from everwave import philox
print(philox.normals(7, 'a', 0, 3).tobytes().hex(), philox._kernel() is not None)
"""


def runs_its_kernels(install: Path, env: dict[str, str], cwd: Path, before: str = "") -> str:
    """Whether a fresh process computes with a kernel, on the code in `install`; what it says on standard error."""
    unset = ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    program = [*unprivileged(), sys.executable, "-P", "-c", before + NORMALS]
    result = run(*program, env=environment | {"PYTHONPATH": str(install)} | env, cwd=cwd)
    assert result.stdout.split() == [philox.normals_numpy(7, "a", 0, 3).tobytes().hex(), "True"], result.stderr
    return result.stderr


@linux
def test_nowhere_to_write(tiny: str, read_only: Path, tmp_path: Path) -> None:
    """An install, a home and a working folder that are read-only, and no cache: kernels are compiled for this run only."""
    pytest.importorskip("numba")
    env = {"HOME": str(read_only), "TMPDIR": str(tmp_path)}
    assert "so every start compiles them" in runs_its_kernels(read_only, env, read_only)
    assert list(tmp_path.iterdir()) == []  # gone with the process
    words = command("generate", "--model", tiny, "-o", str(read_only / "out.wav"))
    output = run(*unprivileged(), *words, env=os.environ | env, cwd=read_only)
    assert output.returncode == 2
    assert "no permission" in one_line(output)


HOMELESS = """
import pwd
def getpwuid(number): raise KeyError(number)
pwd.getpwuid = getpwuid
"""
NO_TEMPORARY = "import tempfile; tempfile._candidate_tempdir_list = list\n"


@linux
@pytest.mark.parametrize("case", ["locked", "read-only", "given", "homeless", "no temporary folder"])
def test_caches_that_cannot_be(case: str, read_only: Path, tmp_path: Path) -> None:
    """As containers have it: whatever folder is missing or locked, kernels run, and one line says what that costs."""
    pytest.importorskip("numba")
    home, work = tmp_path / "home", tmp_path / "work"
    for folder in (home, work, home / ".cache"):
        folder.mkdir(parents=True, exist_ok=True)
    (home / ".cache").chmod(0o555)
    if case == "locked":
        home.chmod(0)
    env = {} if case == "homeless" else {"HOME": str(home)}
    env |= {"NUMBA_CACHE_DIR": str(read_only)} if case == "given" else {}
    before = {"homeless": HOMELESS, "no temporary folder": NO_TEMPORARY}.get(case, "")
    said = runs_its_kernels(read_only, env, work, before)
    assert said.splitlines() == ["compiled kernels can be kept nowhere, so every start compiles them; NUMBA_CACHE_DIR names another folder"]  # fmt: skip
    assert list(work.iterdir()) == []  # no folder called "~" either


@linux
def test_what_an_image_was_built_with_serves_its_users(tmp_path: Path) -> None:
    """Kernels that were compiled beside the code are loaded where nothing can be written any more, without a word."""
    pytest.importorskip("numba")
    install = tmp_path / "install"
    shutil.copytree(Path(everwave.__file__).parent, install / "everwave", ignore=shutil.ignore_patterns("__pycache__"))
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    run(sys.executable, "-P", "-c", NORMALS, env=environment | {"PYTHONPATH": str(install)}, cwd=tmp_path)
    for path in (tmp_path.parent, tmp_path):
        path.chmod(0o755)
    for path in (install, *install.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    no_compiler = "import sys; sys.modules['numba.core'] = None\n"
    assert runs_its_kernels(install, {"HOME": str(install)}, tmp_path, no_compiler) == ""


@linux
def test_files_that_may_not_be_read(tiny: str) -> None:
    drop = unprivileged()
    np.save("a.npy", np.zeros((4, 32), np.float32))
    soundfile.write("a.wav", np.zeros((4410, 2)), 44100)
    for name in ("a.npy", "a.wav"):
        Path(name).chmod(0)
    for words in (
        ["info", "a.wav"],
        ["encode", "a.wav", "--model", tiny, "-o", "b.npy"],
        ["decode", "a.npy", "--model", tiny, "-o", "b.wav"],
    ):
        result = run(*drop, *command(*words))
        assert result.returncode == 1
        assert "(Permission denied); give one that can" in one_line(result)


def test_weights_replaced_while_it_plays(tiny: str, tmp_path: Path) -> None:
    """A model is read once: neither a new file under its name nor other bytes in the same file matter to it."""
    path = tmp_path / "model.h5"
    shutil.copy(tiny, path)
    expected = everwave.load(path).generate(2.0, seed=7)
    for replace in (
        lambda: weights.write(path, weights.random_model(PRESETS["tiny"], seed=2)),
        lambda: path.write_bytes(b"no weights"),
        path.unlink,
    ):
        shutil.copy(tiny, path)
        model = everwave.load(path)
        with model.stream(seed=7, seconds=2.0) as stream:
            blocks = [next(stream)]
            replace()
            blocks += list(stream)
        np.testing.assert_array_equal(np.concatenate(blocks), expected)
    with pytest.raises(everwave.ModelError):
        everwave.load(path)


# -- threads and processes -------------------------------------------------------------------------------------------


def test_eight_threads_on_one_model(model: everwave.Model) -> None:
    alone = [model.generate(1.0, seed=seed) for seed in range(8)]
    fresh = everwave.random_model("tiny", threads=2, backend="numpy")
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda seed: fresh.generate(1.0, seed=seed), range(8)))
    np.testing.assert_array_equal(together, alone)


FORK = """
import os, sys, warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of forks with threads: this is one
import everwave, numpy as np
model = everwave.random_model("tiny", threads=2, backend="{backend}")
expected = model.generate(0.5, seed=7)
stream = model.stream(seed=7)
next(stream)
child = os.fork()
if child == 0:
    same = np.array_equal(model.generate(0.5, seed=7), expected)
    try:
        next(stream)
    except everwave.EverwaveError as error:
        os._exit(0 if same and "fork" in str(error) else 3)
    os._exit(4)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
next(stream)
sys.exit(code)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_fork_after_load(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model works in the child; a stream that was begun belongs to its process, and says so instead of hanging."""
    if backend == "numba":
        pytest.importorskip("numba")
        monkeypatch.delenv("EVERWAVE_PATH")
    result = python(FORK.format(backend=backend))
    assert result.returncode == 0, result.stderr


def _in_a_spawned_process(path: str) -> bytes:
    return everwave.load(path).generate(0.2, seed=7).tobytes()


def test_spawn(tiny: str) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(_in_a_spawned_process, [tiny, tiny])
    assert set(results) == {everwave.load(tiny).generate(0.2, seed=7).tobytes()}


def test_the_program_ends_while_a_stream_is_open() -> None:
    code = "import everwave; s = everwave.random_model('tiny', backend='numpy').stream(seed=7); next(s)"
    code += "; import sys; sys.modules['everwave.player'].kept = s"  # outlives the modules that it uses
    result = python(code)
    assert (result.returncode, result.stderr) == (0, "")


HOST = """
import threading, numba, numpy as np, everwave

@numba.njit(parallel=True)
def host(x):
    total = 0.0
    for i in numba.prange(len(x)):
        total += x[i]
    return total

x, done, failures = np.ones(100_000), threading.Event(), []
def work():
    while not done.is_set():
        if host(x) != len(x):
            failures.append(1)
host(x)
numba.set_num_threads(1)
model = everwave.random_model("tiny", threads=2, backend="numba")
expected = model.generate(1.0, seed=7)
thread = threading.Thread(target=work)
thread.start()
same = all(np.array_equal(model.generate(1.0, seed=7), expected) for _ in range(3))
done.set()
thread.join()
assert same and not failures and numba.get_num_threads() == 1
print(numba.threading_layer())
"""


def test_the_host_program_uses_numbas_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threading layer and number of threads stay its own; even the layer that allows one caller at a time."""
    pytest.importorskip("numba")
    monkeypatch.delenv("EVERWAVE_PATH")
    monkeypatch.setenv("NUMBA_THREADING_LAYER", "workqueue")
    result = python(HOST)
    assert result.stdout.strip() == "workqueue", result.stderr


# -- memory and time -------------------------------------------------------------------------------------------------


@linux
@pytest.mark.parametrize("megabytes", [40, 300, 700])
def test_low_memory(tiny: str, megabytes: int) -> None:
    """A limit on addresses, from far too low on: either it works, or it ends with an error and leaves nothing."""
    arguments = command("generate", "--model", tiny, "--seconds", "2", "--threads", "2", "-o", "out.wav")
    result = run("sh", "-c", f'ulimit -v {megabytes * 1024}; exec "$@"', "sh", *arguments)
    if result.returncode == 0:
        assert len(audio.read("out.wav")[0]) == 2 * 44100
    else:
        assert os.listdir() == []
        assert result.stderr.strip()


def test_a_piece_too_large_for_memory_is_one_line(model: everwave.Model) -> None:
    with pytest.raises(everwave.UsageError, match="stream"):
        model.generate(1e6)


def test_the_clock_jumps(model: everwave.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards by a day and back by an hour, again and again: nothing that is heard depends on a clock."""
    expected = model.generate(2.0, seed=7)
    real, calls, lock = time.time, [0], threading.Lock()

    def jumping() -> float:
        with lock:
            calls[0] += 1
            return real() + (86400 if calls[0] % 2 else -3600)

    for name in ("time", "monotonic", "perf_counter", "thread_time", "process_time"):
        monkeypatch.setattr(time, name, jumping)
    np.testing.assert_array_equal(model.generate(2.0, seed=7), expected)
    with audio.Writer("out.flac", model.sample_rate) as writer:
        for block in model.stream(seed=7, seconds=2.0):
            writer.write(block)
    assert calls[0] > 10
    np.testing.assert_allclose(soundfile.read("out.flac")[0], expected, atol=3.1e-5)
