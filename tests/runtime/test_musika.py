"""Import of Musika's checkpoints: every variant comes back as it was, and every wrong file is named in one line."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from everwave import musika
from everwave.config import AutoencoderConfig, Config, GeneratorConfig, SignalConfig
from everwave.errors import ModelError, UsageError
from everwave.musika import FILES, FRAME_DECODER_ORDER, import_checkpoint, read_checkpoint
from everwave.ops.trace import trace

SIGNAL, AUTOENCODER = SignalConfig(22050, 32), AutoencoderConfig(width=8, frame_latents=4, latents=6)
NORMAL = Config(SIGNAL, AUTOENCODER, GeneratorConfig(width=2))
SMALL = Config(SIGNAL, AUTOENCODER, GeneratorConfig(width=2, window=64))


def random_parameters(config, seed=0):
    rng = np.random.default_rng(seed)
    return {
        network: {
            name: rng.standard_normal(shape).astype(np.float32)
            for name, shape in trace(network, config).parameters.items()
        }
        for network in FILES
    }


def keras_layers(network, parameters, small):
    """(layer, weight, array) as the original stores them: height 1, transposed kernels (1, 4, C_out, C_in)."""
    names = list(dict.fromkeys(name.split("/")[0] for name in parameters))
    if network == "frame_decoder":
        names = FRAME_DECODER_ORDER
    for i, name in enumerate(names):
        kernel = parameters[f"{name}/kernel"]
        if network == "generator":
            layer, noise, style = generator_layer(name, small)
        else:
            layer, noise, style = f"conv2d_{i + 7}", f"add_noise_{i}", ""
        if kernel.ndim == 3:
            kernel = (kernel.swapaxes(1, 2) if len(kernel) == 4 and name[0] in "up" else kernel)[None]
        yield layer, "kernel:0", kernel
        yield layer, "bias:0", parameters[f"{name}/bias"]
        if f"{name}/noise" in parameters:
            yield noise, "noise_weight:0", parameters[f"{name}/noise"]
        if f"{name}/style_kernel" in parameters:
            yield style, "kernel:0", parameters[f"{name}/style_kernel"][None]
            yield style, "bias:0", parameters[f"{name}/style_bias"]


def generator_layer(name, small):
    if name == "stem":
        return "00d", "00n", "00ai"
    if name == "out":
        return "9c", "", ""
    suffix = "_small" if small and name in ("up0", "conv0", "skip0") else ""
    index = int(name[-1])
    if name.startswith("skip"):
        return f"res{index + 1}c{suffix}", "", ""
    plain = f"{2 * index + name.startswith('conv')}{suffix}"
    return f"{plain}c", f"{plain}r", f"{plain}ai"


def write(path, layers):
    with h5py.File(path, "w") as file:
        groups = {"input_1": []}
        for layer, weight, array in layers:
            groups.setdefault(layer, []).append((f"{layer}/{weight}", array))
        file.attrs["layer_names"] = np.array([name.encode() for name in groups])
        for layer, weights in groups.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name, _ in weights], dtype="S")
            for name, array in weights:
                group.create_dataset(name, data=array)


def write_checkpoint(folder, config, seed=0):
    parameters = random_parameters(config, seed)
    for network, file in FILES.items():
        write(folder / file, keras_layers(network, parameters[network], config.generator.small))
    return parameters


@pytest.fixture
def folder(tmp_path):
    write_checkpoint(tmp_path, NORMAL)
    return tmp_path


@pytest.mark.parametrize("config", [NORMAL, SMALL], ids=["window 128", "small"])
def test_config_and_every_parameter_come_back(tmp_path, config):
    written = write_checkpoint(tmp_path, config)
    found, parameters = read_checkpoint(tmp_path, tmp_path, 22050)
    assert found == config
    for network, values in written.items():
        assert parameters[network].keys() == values.keys()
        for name, value in values.items():
            assert np.array_equal(parameters[network][name], value), (network, name)
            assert parameters[network][name].dtype == np.float32


def test_an_imported_model_is_written_and_read_as_ours(folder):
    weights = pytest.importorskip("everwave.weights")
    model = import_checkpoint(folder / "gen_ema.h5", folder)
    assert (model.kind, model.config.signal.sample_rate, model.provenance["sample_rate"]) == (
        "bundle",
        44100,
        "assumed",
    )
    assert len(model.provenance["files"]["enc.h5"]) == 64
    weights.write(folder / "ours.h5", model, dtype="float32")
    again = weights.read(folder / "ours.h5")
    assert again.config == model.config
    assert np.array_equal(again.parameters["generator"]["up0/kernel"], model.parameters["generator"]["up0/kernel"])


def test_a_place_where_nothing_can_be_locked(folder, request):
    request.getfixturevalue("no_locks")  # now that the files are there
    assert read_checkpoint(folder, folder, 22050)[0] == NORMAL


def test_an_autoencoder_alone(folder):
    model = import_checkpoint(None, folder, sample_rate=22050)
    assert (model.kind, len(model.parameters), model.provenance["sample_rate"]) == ("autoencoder", 4, "given")


@pytest.mark.parametrize("rate", [0, -1, 7999, 192001])
def test_a_sample_rate_that_no_model_has(folder, rate):
    with pytest.raises(UsageError, match=f"sample_rate={rate}; it must be 8000 to 192000 Hz"):
        import_checkpoint(None, folder, rate)


@pytest.mark.parametrize("first", FILES.values())
@pytest.mark.parametrize("second", FILES.values())
def test_swapped_files_are_recognised(folder, first, second):
    if first == second:
        return
    (folder / first).rename(folder / "x")
    (folder / second).rename(folder / first)
    (folder / "x").rename(folder / second)
    with pytest.raises(ModelError, match=r"\.h5: holds the .*; expected the "):
        read_checkpoint(folder, folder)


@pytest.mark.parametrize("file", FILES.values())
def test_a_missing_file_is_named(folder, file):
    (folder / file).unlink()
    with pytest.raises(ModelError, match=f"{file}: no such file"):
        read_checkpoint(folder, folder)


@pytest.mark.parametrize("file", FILES.values())
def test_files_of_different_checkpoints_do_not_mix(folder, tmp_path_factory, file):
    other = tmp_path_factory.mktemp("other")
    sizes = Config(SignalConfig(22050, 64), AutoencoderConfig(16, 8, 10), GeneratorConfig(width=4, anchor=32))
    write_checkpoint(other, sizes)
    (folder / file).write_bytes((other / file).read_bytes())
    with pytest.raises(ModelError, match="belong together"):
        read_checkpoint(folder, folder)


NAME = "conv2d_8/conv2d_8/bias:0"  # of the second layer of enc.h5, 32 numbers


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def link(file, target):
    del file[NAME]
    file[NAME] = target


def put(file, **options):
    options.setdefault("shape", None if "data" in options else (32,))
    options.setdefault("dtype", "f4")
    del file[NAME]
    file.create_dataset(NAME, **options)


HOSTILE = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("weights"),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "no layer names": lambda path: edit(path, lambda f: f.attrs.pop("layer_names")),
    "number for names": lambda path: edit(path, lambda f: f.attrs.create("layer_names", 7)),
    "unknown layer": lambda path: edit(path, lambda f: f.attrs.create("layer_names", [b"nowhere"])),
    "layer twice": lambda path: edit(path, lambda f: f.attrs.create("layer_names", [*f.attrs["layer_names"], b"conv2d_7"])),
    "missing layer": lambda path: edit(path, lambda f: f.attrs.create("layer_names", f.attrs["layer_names"][:-1])),
    "missing array": lambda path: edit(path, lambda f: f.pop("conv2d_8/conv2d_8/bias:0")),
    "missing name": lambda path: edit(path, lambda f: f["conv2d_8"].attrs.create("weight_names", [b"conv2d_8/kernel:0"])),
    "soft link": lambda path: edit(path, lambda f: link(f, h5py.SoftLink("/conv2d_7/conv2d_7/bias:0"))),
    "external link": lambda path: edit(path, lambda f: link(f, h5py.ExternalLink("enc2.h5", "/"))),
    "external storage": lambda path: edit(path, lambda f: put(f, external=[("/etc/hostname", 0, 1024)])),
    "filters": lambda path: edit(path, lambda f: put(f, compression="gzip")),
    "shape bomb": lambda path: edit(path, lambda f: put(f, shape=(10**9,))),
    "strings": lambda path: edit(path, lambda f: put(f, shape=(32,), dtype="S4")),
    "other size": lambda path: edit(path, lambda f: put(f, shape=(31,), fillvalue=1, data=np.ones(31, "f4"))),
    "NaN": lambda path: edit(path, lambda f: put(f, data=np.full(32, np.nan, "f4"))),
}  # fmt: skip


@pytest.mark.parametrize("damage", HOSTILE)
def test_hostile_files_are_refused_in_one_line(folder, damage):
    HOSTILE[damage](folder / "enc.h5")
    with pytest.raises(ModelError, match=r"enc\.h5") as caught:
        read_checkpoint(folder, folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bits_never_crash(folder, seed):
    rng = np.random.default_rng(seed)
    path = folder / list(FILES.values())[seed % len(FILES)]
    data = bytearray(path.read_bytes())
    for position in rng.integers(0, min(len(data), 20_000), 8):
        data[position] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    try:
        _, parameters = read_checkpoint(folder, folder)
    except ModelError:
        return
    assert all(np.isfinite(a).all() for p in parameters.values() for a in p.values())


def test_files_that_hang_or_crash_the_library_are_refused(folder, monkeypatch):
    monkeypatch.setattr(musika, "CHILD_SECONDS", 10)
    with h5py.File(folder / "enc2.h5", "r+") as file:  # names of variable length, as Keras writes them too
        file.attrs.create("layer_names", list(file.attrs["layer_names"]), dtype=h5py.string_dtype())
    assert import_checkpoint(folder, folder).kind == "bundle"
    data = bytearray((folder / "enc2.h5").read_bytes())
    heap = data.index(b"GCOL")  # where they are
    data[heap + 16 : heap + 400] = bytes(384)
    (folder / "enc2.h5").write_bytes(data)
    with pytest.raises(ModelError, match=r"enc2\.h5: ") as caught:
        import_checkpoint(folder, folder)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes there")
def test_names_that_are_no_text(folder):
    strange = folder.parent / os.fsdecode(b"\xff")
    folder.rename(strange)
    assert import_checkpoint(strange, strange).kind == "bundle"
    (strange / "enc2.h5").write_bytes(b"")
    with pytest.raises(ModelError, match=r"enc2\.h5"):
        import_checkpoint(strange, strange)


def test_names_that_a_code_page_lacks(folder, monkeypatch):
    """Windows gives a program the console's code page, unless it is told another encoding."""
    run = subprocess.run

    def on_a_console(command, env, **options):
        encoding, _, errors = env["PYTHONIOENCODING"].partition(":")
        return run(command, env=env | {"PYTHONIOENCODING": f"{encoding or 'cp1252'}:{errors}"}, **options)

    monkeypatch.setattr(subprocess, "run", on_a_console)
    strange = folder.with_name("müsika-音楽")
    folder.rename(strange)
    assert import_checkpoint(strange, strange).kind == "bundle"
    (strange / "enc2.h5").write_bytes(b"")
    with pytest.raises(ModelError, match=f"{strange.name}.enc2.h5: no HDF5 file"):
        import_checkpoint(strange, strange)


def test_a_file_in_the_current_folder_is_no_library(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "h5py.py").write_text("open('was_run', 'w'); raise SystemExit(1)\n")
    assert import_checkpoint(folder, folder).kind == "bundle"
    assert not (folder / "was_run").exists()


@pytest.mark.parametrize("code", ["import os; os.abort()", "while True: pass", "raise SystemExit(1)"])
def test_what_happens_in_the_child_stays_there(folder, monkeypatch, code):
    monkeypatch.setattr(musika, "CHILD_SECONDS", 2)
    run, program = subprocess.run, [sys.executable, "-c", f"print('enc.h5', flush=True)\n{code}"]
    monkeypatch.setattr(subprocess, "run", lambda _, **options: run(program, **options))
    with pytest.raises(ModelError, match=r"enc\.h5: so damaged"):
        import_checkpoint(None, folder)


def test_unexpected_generator_layers_are_named(folder):
    parameters = random_parameters(NORMAL)["generator"]
    layers = [*keras_layers("generator", parameters, small=False), ("critic", "kernel:0", np.zeros((2, 2)))]
    write(folder / "gen_ema.h5", layers)
    with pytest.raises(ModelError, match="unexpected layer 'critic'"):
        read_checkpoint(folder, folder)
