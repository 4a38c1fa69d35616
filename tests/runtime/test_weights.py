"""The weights format: what is written is read back, and whatever else a file holds is one clear ModelError."""

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from everwave import weights, weights_format
from everwave.config import PRESETS, AutoencoderConfig, Condition, Config
from everwave.errors import AudioError, ModelError, NoRoom, OutputError
from everwave.networks import AUTOENCODER, NETWORKS
from everwave.ops.trace import trace
from everwave.weights import ModelFile

KERNEL = "generator/up0/kernel"
NAMELESS = {"unit": "", "mean": 0, "scale": 1, "low": 0, "high": 1}  # a condition but for its name


def part(model: ModelFile, kind: str, *networks: str, **changes) -> ModelFile:
    """Some networks of a bundle as a file of another kind."""
    return replace(model, kind=kind, parameters={name: model.parameters[name] for name in networks}, **changes)


def assert_same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for network in a:
        assert a[network].keys() == b[network].keys()
        for name, array in a[network].items():
            mine, other = np.float32(array), np.float32(b[network][name])  # read as stored, float16 or float32
            np.testing.assert_array_equal(mine, other, err_msg=f"{network}/{name}", strict=True)


def error_of(path) -> str:
    """The message of the ModelError that reading `path` raises: one line that names the file, and no file left open."""
    with pytest.raises(ModelError) as caught:
        weights.read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == 0
    return message


@pytest.fixture(scope="module")
def domain(smallest_model: ModelFile) -> ModelFile:
    """A domain file of the generator alone: the smallest file there is."""
    return part(smallest_model, "domain", "generator", autoencoder={"file": "autoencoder.h5", "sha256": "0" * 64})


@pytest.fixture(scope="module")
def content(domain: ModelFile, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("domain") / "domain.h5"
    weights.write(path, domain)
    return path.read_bytes()


@pytest.fixture
def path(content: bytes, tmp_path: Path) -> Path:
    """A copy of that file to spoil."""
    (tmp_path / "domain.h5").write_bytes(content)
    return tmp_path / "domain.h5"


# -- what is written is read back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_round_trip(smallest_model: ModelFile, tmp_path: Path, dtype: str) -> None:
    wanted = replace(smallest_model, licence="CC-BY 4.0, © Ève", provenance={"steps": 3, "data": ["a", "ü"]})
    weights.write(tmp_path / "a.h5", wanted, dtype)
    found = weights.read(tmp_path / "a.h5")
    assert replace(found, parameters={}) != found  # frozen, compared by identity
    for name in ("config", "kind", "licence", "provenance", "autoencoder"):
        assert getattr(found, name) == getattr(wanted, name), name
    rounded = {
        network: {name: a.astype(dtype) for name, a in values.items()} for network, values in wanted.parameters.items()
    }
    assert_same(found.parameters, rounded)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_a_config_that_can_be_read(preset: str) -> None:
    config = PRESETS[preset]
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_header_is_as_documented(path: Path, domain: ModelFile) -> None:
    with h5py.File(path) as file:
        header = {name: value.decode() if isinstance(value, bytes) else value for name, value in file.attrs.items()}
        assert file[KERNEL].dtype == np.float16
    assert (header["format"], header["format_version"], header["kind"]) == ("everwave", 1, "domain")
    assert json.loads(header["config"]) == json.loads(json.dumps(domain.config.to_dict()))
    assert json.loads(header["conditions"]) == [
        {"name": "bpm", "unit": "1/min", "mean": 140.0, "scale": 10.0, "range": [120.0, 160.0]}
    ]
    assert json.loads(header["autoencoder"]) == domain.autoencoder
    assert {"licence", "provenance", "crc32"} < set(header)


def test_a_file_made_with_plain_h5py_is_read(domain: ModelFile, path: Path, tmp_path: Path) -> None:
    """Nothing but what the format documents: strings as h5py stores them, float32, no checksum."""
    with h5py.File(path) as file, h5py.File(tmp_path / "plain.h5", "w") as plain:
        for name, value in file.attrs.items():
            if name != "crc32":
                plain.attrs[name] = value.decode() if isinstance(value, bytes) else value
        for name, array in domain.parameters["generator"].items():
            plain[f"generator/{name}"] = array
    assert_same(weights.read(tmp_path / "plain.h5").parameters, domain.parameters)


def test_same_content_gives_the_same_bytes(domain: ModelFile, path: Path, tmp_path: Path) -> None:
    time.sleep(1.1)  # HDF5 can store times, in seconds
    weights.write(tmp_path / "again.h5", domain)
    assert (tmp_path / "again.h5").read_bytes() == path.read_bytes()


def test_a_failed_write_leaves_the_old_file(domain: ModelFile, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights_format, "_write_datasets", fail)
    with pytest.raises(ModelError, match="No space left"):
        weights.write(path, replace(domain, licence="other"))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_cannot_be_replaced_leaves_the_finished_one(
    domain: ModelFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def refused(*_: object) -> None:  # as Windows does while somebody has it open
        raise PermissionError(13, "Access is denied")

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(
        AudioError, match=r"^\S+ cannot be replaced \(Access is denied\); the finished file is"
    ) as caught:
        weights.write(path, replace(domain, licence="other"))
    assert path.read_bytes() == before
    (part,) = path.parent.glob(".*.part")
    assert f"the finished file is {part}" in str(caught.value)
    part.rename(path)
    assert weights.read(path).licence == "other"


def changed(model: ModelFile, value: object) -> ModelFile:
    parameters = dict(model.parameters["generator"])
    if value is None:
        del parameters["up0/kernel"]
    else:
        parameters["up0/kernel"] = value * np.ones_like(parameters["up0/kernel"], np.float32)
    return replace(model, parameters={"generator": parameters})


REFUSED_WRITES = {
    "missing parameter": (lambda m: changed(m, None), "up0/kernel"),
    "wrong shape": (lambda m: changed(m, np.ones((2, 1, 1, 1))), "shape"),
    "NaN": (lambda m: changed(m, np.nan), "finite"),
    "too large for float16": (lambda m: changed(m, 7e4), "float32"),
    "unknown network": (lambda m: replace(m, parameters=m.parameters | {"critic": {}}), "critic"),
    "unknown kind": (lambda m: replace(m, kind="model"), "kind"),
    "missing networks": (lambda m: replace(m, kind="bundle"), "bundle"),
    "no licence": (lambda m: replace(m, licence=""), "licence"),
    "over-long licence": (lambda m: replace(m, licence="x" * 70_000), "limit"),
    "NaN in provenance": (lambda m: replace(m, provenance={"loss": np.nan}), "cannot be written"),
    "no JSON": (lambda m: replace(m, provenance={"model": object()}), "cannot be written"),
    "no autoencoder": (lambda m: replace(m, autoencoder=None), "names its autoencoder"),
    "impossible config": (
        lambda m: replace(m, config=replace(m.config, signal=replace(m.config.signal, sample_rate=1))),
        "sample_rate",
    ),
}


@pytest.mark.parametrize("case", REFUSED_WRITES)
def test_what_cannot_be_read_is_not_written(domain: ModelFile, tmp_path: Path, case: str) -> None:
    change, expected = REFUSED_WRITES[case]
    with pytest.raises(ModelError, match=expected):
        weights.write(tmp_path / "a.h5", change(domain))
    assert not os.listdir(tmp_path)


@pytest.mark.usefixtures("no_locks")
def test_a_place_where_nothing_can_be_locked(domain: ModelFile, tmp_path: Path) -> None:
    weights.write(tmp_path / "new.h5", domain)
    assert weights.read(tmp_path / "new.h5").licence == domain.licence


def test_unwritable_places(domain: ModelFile, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="create it first"):
        weights.write(tmp_path / "missing" / "a.h5", domain)
    with pytest.raises(OutputError, match="is a folder"):
        weights.write(tmp_path, domain)
    with pytest.raises(ModelError, match="float64"):
        weights.write(tmp_path / "a.h5", domain, "float64")


def test_a_link_is_followed_and_names_may_be_long(domain: ModelFile, tmp_path: Path) -> None:
    name = "x" * 252 + ".h5"
    (tmp_path / "link.h5").symlink_to(name)
    weights.write(tmp_path / "link.h5", domain)
    assert (tmp_path / "link.h5").is_symlink()
    assert weights.read(tmp_path / name).licence == domain.licence
    assert len(os.listdir(tmp_path)) == 2


def test_a_full_disk_is_seen_before_anything_is_written(
    domain: ModelFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: (10**9, 10**9 - 10**6, 10**6))
    with pytest.raises(NoRoom, match=r"a\.h5: needs up to 1\.3 MB, 1\.0 MB are free"):
        weights.write(tmp_path / "a.h5", domain)
    assert os.listdir(tmp_path) == []


# -- a refiner, or none ---------------------------------------------------------------------------------------------


def test_a_model_may_have_a_refiner(smallest_model: ModelFile, tmp_path: Path) -> None:
    path, sizes = tmp_path / "model.h5", smallest_model.config
    refined = replace(sizes, generator=replace(sizes.generator, refiner=2))
    model = weights.random_model(refined)
    weights.write(path, model, "float16")
    back = weights.read(path)
    assert back.config == refined
    assert set(back.parameters) == set(NETWORKS)
    del model.parameters["refiner"]
    with pytest.raises(ModelError, match="generator, refiner, not"):
        weights.write(path, model)
    with h5py.File(path, "r+") as file:
        del file["refiner"]
    with pytest.raises(ModelError, match="/refiner is missing"):
        weights.read(path)


def test_a_config_without_a_refiner_is_as_before_there_were_any(smallest_model: ModelFile, tmp_path: Path) -> None:
    weights.write(tmp_path / "model.h5", smallest_model)
    with h5py.File(tmp_path / "model.h5") as file:
        assert "refiner" not in json.loads(file.attrs["config"])["generator"]
    assert weights.read(tmp_path / "model.h5").config.generator.refiner == 0


def test_a_ceiling_is_kept(smallest_model: ModelFile, tmp_path: Path) -> None:
    generator = replace(smallest_model.config.generator, ceiling=(0.5, 0.25, -1.0))
    config = replace(smallest_model.config, generator=generator)
    weights.write(tmp_path / "model.h5", replace(smallest_model, config=config))
    assert weights.read(tmp_path / "model.h5").config == config


def test_a_condition_may_have_choices(smallest_model: ModelFile, tmp_path: Path) -> None:
    plain = Condition("piano", "", 0.5, 0.5, 0.0, 1.0)
    generator = smallest_model.config.generator
    for condition in (plain, replace(plain, choices=(0.0, 1.0))):
        config = replace(smallest_model.config, generator=replace(generator, conditions=(condition,)))
        weights.write(tmp_path / "model.h5", weights.random_model(config))
        assert weights.read(tmp_path / "model.h5").config == config
        with h5py.File(tmp_path / "model.h5") as file:
            (written,) = json.loads(file.attrs["config"])["generator"]["conditions"]
            (mirrored,) = json.loads(file.attrs["conditions"])
        assert written.get("choices") == mirrored.get("choices") == ([0.0, 1.0] if condition.choices else None)
    for choices in ([0.0, 2.0], [float("nan")], [0.5] * 65, ["x"], 1):
        data = config.to_dict()
        data["generator"]["conditions"][0]["choices"] = choices
        with pytest.raises(ModelError, match="condition"):
            Config.from_dict(data)


# -- hostile files --------------------------------------------------------------------------------------------------


def attribute(name: str, value: object):
    return lambda file: file.attrs.__setitem__(name, value)


def config(**generator: object):
    """A config that states other sizes than the file has."""

    def edit(file: h5py.File) -> None:
        data = json.loads(file.attrs["config"])
        data["generator"] |= generator
        file.attrs["config"] = json.dumps(data)

    return edit


def kernel(make):
    """The kernel dataset replaced by what `make(file, name, values)` puts there."""

    def edit(file: h5py.File) -> None:
        values = file[KERNEL][()]
        del file[KERNEL]
        make(file, KERNEL, values)

    return edit


def dataset(**options: object):
    def make(file: h5py.File, name: str, values: np.ndarray) -> None:
        file.create_dataset(name, **({"data": values} | options))

    return kernel(make)


def virtual(file: h5py.File, name: str, values: np.ndarray) -> None:
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource(file.filename, "generator/conv0/kernel", values.shape)
    file.create_virtual_dataset(name, layout)


def compact(file: h5py.File, name: str, values: np.ndarray) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple(values.shape)
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F16LE, space, plist).write(h5py.h5s.ALL, h5py.h5s.ALL, values)


def linked_twice(file: h5py.File) -> None:
    del file["generator/conv1/kernel"]
    file["generator/conv1/kernel"] = file["generator/conv0/kernel"]


def wrapped_group(file: h5py.File) -> None:
    del file["generator/up0"]
    file["generator/up0"] = file["generator"]  # a cycle of hard links


def delete(name: str):
    def edit(file: h5py.File) -> None:
        del file[name]

    return edit


def link(name: str, target: object):
    def edit(file: h5py.File) -> None:
        del file[name]
        file[name] = target

    return edit


def numbers(value: float):
    def edit(file: h5py.File) -> None:
        file[KERNEL][0, 0, 0] = value

    return edit


VARIABLE = h5py.vlen_dtype(np.float16)
SHAPE = (4, 14, 12)  # of KERNEL in the smallest config

HOSTILE = {  # edit of a good file: what the message must say
    "another format": (attribute("format", "safetensors"), "no everwave weights"),
    "no format": (lambda f: f.attrs.__delitem__("format"), "no everwave weights"),
    "format is a number": (attribute("format", 7), "must be a string"),
    "newer version": (attribute("format_version", 2), "upgrade"),
    "version is a string": (attribute("format_version", "1"), "must be an integer"),
    "version is an array": (attribute("format_version", [1, 1]), "over-long"),
    "no config": (lambda f: f.attrs.__delitem__("config"), "'config' is missing"),
    "config is no JSON": (attribute("config", "{"), "no JSON"),
    "config is nested without end": (attribute("config", "[" * 50_000), "no JSON"),
    "config holds a huge number": (attribute("config", "9" * 10_000), "no JSON"),
    "config is a number": (attribute("config", "7"), "'signal' is missing"),
    "config is an array": (attribute("config", ["a", "b"]), "over-long"),
    "config is empty": (attribute("config", h5py.Empty("S10")), "over-long"),
    "config holds NaN": (attribute("config", "NaN"), "finite"),
    "config is bytes of no Unicode": (attribute("config", np.bytes_(b"\xff\xfe{}")), "no JSON"),
    "config of another width": (config(width=4), "shape"),
    "config out of bounds": (config(width=10**9), "width=1000000000"),
    "config of an odd width": (config(width=3), "even"),
    "config with an unknown field": (config(depth=4), "fields"),
    "config of no condition": (config(conditions=[]), "conditions"),
    "ceiling of one number": (config(ceiling=[0.5]), "expected 3 numbers"),
    "ceiling too high": (config(ceiling=[0.5, 0.5, 2.5]), "in -2..2"),
    "ceiling of text": (config(ceiling="low"), "ceiling=low"),
    "condition without scale": (config(conditions=[{"name": "bpm", "unit": "", "mean": 0, "scale": 0, "low": 0, "high": 0}]), "scale"),
    "condition at infinity": (config(conditions=[{"name": "bpm", "unit": "", "mean": 1e308, "scale": 1, "low": 0, "high": "inf"}]), "finite"),
    "condition called as a control": (config(conditions=[dict(NAMELESS, name="gain")]), "'gain'"),
    "condition called as a place in a log": (config(conditions=[dict(NAMELESS, name="at")]), "'at'"),
    "condition without a name": (config(conditions=[dict(NAMELESS, name="")]), "''"),
    "two conditions of one name": (config(conditions=2 * [dict(NAMELESS, name="bpm")]), "'bpm' twice"),
    "other conditions": (attribute("conditions", "[]"), "conditions"),
    "unknown kind": (attribute("kind", "pickle"), "kind 'pickle'"),
    "kind of more networks": (attribute("kind", "bundle"), "/frame_encoder is missing"),
    "over-long licence": (attribute("licence", "x" * 60_001), "60001"),
    "over-long fixed licence": (attribute("licence", np.bytes_(b"x" * 60_001)), "over-long"),
    "provenance is a list": (attribute("provenance", "[]"), "provenance"),
    "autoencoder in another folder": (attribute("autoencoder", json.dumps({"file": "../a.h5", "sha256": "0" * 64})), "without a folder"),
    "autoencoder without a hash": (attribute("autoencoder", json.dumps({"file": "a.h5", "sha256": "1"})), "hexadecimal"),
    "autoencoder is a string": (attribute("autoencoder", '"a.h5"'), "names its autoencoder"),
    "wrong checksum": (attribute("crc32", 5), "checksum"),
    "checksum is a string": (attribute("crc32", "5"), "must be an integer"),
    "missing network": (delete("generator"), "/generator is missing"),
    "missing layer": (delete("generator/up0"), "/generator/up0 is missing"),
    "missing parameter": (delete(KERNEL), f"/{KERNEL} is missing"),
    "extra network": (lambda f: f.create_group("critic"), "expected 1"),
    "network of another kind": (lambda f: f.create_group("frame_decoder"), "expected 1"),
    "empty network": (lambda f: f.create_group("chunk_decoder"), "is missing"),
    "extra layer": (lambda f: f.create_group("generator/up9"), "expected"),
    "extra parameter": (lambda f: f.create_dataset("generator/up0/gain", data=[1.0]), "expected"),
    "a thousand extra groups": (lambda f: [f.create_group(f"g{i}") for i in range(1000)], "1001 entries"),
    "parameter is a group": (kernel(lambda f, name, _: f.create_group(name)), "must be a dataset"),
    "layer is a dataset": (lambda f: (f.__delitem__("generator/up0"), f.create_dataset("generator/up0", data=[1.0])), "must be a group"),
    "parameter is a named type": (link(KERNEL, np.dtype("f4")), "must be a dataset"),
    "soft link to a parameter": (link(KERNEL, h5py.SoftLink("/generator/conv0/kernel")), "soft or external"),
    "soft link to a layer": (link("generator/up0", h5py.SoftLink("/generator/up1")), "soft or external"),
    "soft link to nothing": (link("generator", h5py.SoftLink("/nothing")), "soft or external"),
    "soft link in a circle": (link("generator", h5py.SoftLink("/generator")), "soft or external"),
    "external link": (link(KERNEL, h5py.ExternalLink("/etc/passwd", "/x")), "soft or external"),
    "external link to itself": (lambda f: link(KERNEL, h5py.ExternalLink(f.filename, "/generator/conv0/kernel"))(f), "soft or external"),
    "cycle of hard links": (wrapped_group, "is missing"),
    "one dataset under two names": (linked_twice, "shape"),
    "wrong shape": (dataset(data=np.zeros((1, 2, 3), np.float16)), "(1, 2, 3)"),
    "no shape": (dataset(data=np.float16(1)), "shape ()"),
    "null shape": (dataset(data=h5py.Empty("<f2")), "shape None"),
    "shape of terabytes": (dataset(data=None, shape=(2**20, 2**20), dtype="<f2"), "shape (1048576, 1048576)"),
    "no data": (dataset(data=None, shape=SHAPE, dtype="<f2"), "no data"),
    "float64": (dataset(dtype="<f8"), "float64"),
    "big-endian": (dataset(dtype=">f2"), "little-endian"),
    "integers": (dataset(dtype="<i2"), "int16"),
    "complex": (dataset(data=np.zeros(SHAPE, "<c8")), "complex64"),
    "strings": (dataset(data=np.full(SHAPE, b"x")), "little-endian"),
    "variable length": (dataset(data=None, shape=SHAPE, dtype=VARIABLE), "object"),
    "variable-length strings": (dataset(data=None, shape=SHAPE, dtype=h5py.string_dtype()), "object"),
    "object references": (dataset(data=None, shape=SHAPE, dtype=h5py.ref_dtype), "object"),
    "compound": (dataset(data=np.zeros(SHAPE, [("a", "<f2")])), "little-endian"),
    "chunks": (dataset(chunks=True), "chunks"),
    "compressed": (dataset(compression="gzip"), "compressed"),
    "a compressed bomb": (dataset(data=None, shape=SHAPE, dtype="<f2", chunks=SHAPE, compression="gzip", fillvalue=1), "compressed"),
    "growing": (dataset(maxshape=(None, 14, 12)), "chunks"),
    "compact": (kernel(compact), "contiguous"),
    "external storage": (dataset(data=None, shape=SHAPE, dtype="<f2", external=[("/etc/passwd", 0, 2 * 672)]), "outside"),
    "virtual": (kernel(virtual), "chunks, compressed, or outside"),
    "NaN": (numbers(np.nan), "finite"),
    "infinity": (numbers(-np.inf), "finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(path: Path, case: str) -> None:
    edit, expected = HOSTILE[case]
    with h5py.File(path, "r+") as file:
        assert file[KERNEL].shape == SHAPE
        if case not in ("wrong checksum", "checksum is a string"):
            del file.attrs["crc32"]  # it must not be the checksum that saves us
        edit(file)
    assert expected in error_of(path)


def test_a_file_that_holds_much_else_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_format, "MAX_OVERHEAD", 1000)
    assert "holds something else" in error_of(path)


def test_to_look_for_a_link_opens_no_other_file(tmp_path: Path) -> None:
    """The other file is a pipe that nobody writes to: whoever opened it would wait for ever."""
    path, pipe = tmp_path / "links.h5", tmp_path / "pipe"
    os.mkfifo(pipe)
    with h5py.File(path, "w") as file:
        file["own"], file["soft"], file["external"] = [1.0], h5py.SoftLink("/own"), h5py.ExternalLink(str(pipe), "/x")
    ask = (
        "import h5py, sys\nfrom everwave.hdf5 import hard_link\n"
        "with h5py.File(sys.argv[1]) as file: print(*(hard_link(file, name) for name in sys.argv[2:]))"
    )
    command = [sys.executable, "-c", ask, path, "own", "soft", "external", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["True", "False", "False", "None"]


def test_hard_links_do_not_multiply_a_small_file(smallest_model: ModelFile, tmp_path: Path) -> None:
    """Datasets of equal shape may be one under many names; then the file is smaller than the model it claims to be."""
    path, first = tmp_path / "linked.h5", {}
    config = replace(smallest_model.config, autoencoder=AutoencoderConfig(width=64, frame_latents=2, latents=2))
    model = weights.random_model(config)
    with h5py.File(path, "w") as file:
        for name, text in weights_format._attributes(model).items():
            file.attrs[name] = text
        file.attrs["format_version"] = 1
        for name, array in ((f"{n}/{p}", a) for n, ps in model.parameters.items() for p, a in ps.items()):
            file[name] = file[first[array.shape]] if array.shape in first else array
            first.setdefault(array.shape, name)
    assert "one part twice" in error_of(path)


@pytest.mark.parametrize("data", [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04" * 100, b"no weights at all\n" * 100])
def test_what_is_no_hdf5_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.h5").write_bytes(data)
    assert "no weights file" in error_of(tmp_path / "a.h5")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in error_of(tmp_path / "missing.h5")
    assert "is no file" in error_of(tmp_path)
    error_of("/" + "x" * 5000)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.h5")
        assert "is no file" in error_of(tmp_path / "pipe.h5")


def test_every_truncation_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    random.seed(0)
    for length in (len(whole) - 1, *random.sample(range(len(whole)), 25)):
        path.write_bytes(whole[:length])
        error_of(path)


def test_damage_is_noticed_or_harmless(path: Path) -> None:
    """Flipped bits anywhere: either a ModelError, or every parameter is as it was."""
    whole, wanted = path.read_bytes(), weights.read(path).parameters
    rng, refused = random.Random(0), 0
    for trial in range(80):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 4, 32])):
            place = rng.randrange(len(whole)) if trial % 2 else rng.randrange(4096)
            damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            found = weights.read(path).parameters
        except ModelError:
            refused += 1
        else:
            assert_same(found, wanted)
    assert refused > 20


# -- finding --------------------------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package without models, in the folder returned, and no EVERWAVE_WEIGHTS."""
    monkeypatch.delenv("EVERWAVE_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(weights, "__file__", str(tmp_path / "site-packages" / "everwave" / "weights.py"))
    return tmp_path


def put(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")
    return folder


def test_wheel(nowhere: Path) -> None:
    shipped = put(nowhere / "site-packages" / "everwave" / "shipped", "techno.h5", "README.md")
    put(nowhere / "weights", "other.h5")  # no part of an installed package
    assert weights.find("techno") == shipped / "techno.h5"
    assert weights.available() == ["techno"]


def test_clone_and_editable_install(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "__file__", str(nowhere / "clone" / "runtime" / "everwave" / "weights.py"))
    shipped = put(nowhere / "clone" / "weights", "techno.h5")
    assert weights.find("techno") == shipped / "techno.h5"


def test_the_environment_comes_first(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(nowhere / "site-packages" / "everwave" / "shipped", "techno.h5", "piano.h5")
    own = put(nowhere / "own", "techno.h5", "mine.h5")
    monkeypatch.setenv("EVERWAVE_WEIGHTS", str(own))
    assert weights.find("techno") == own / "techno.h5"
    assert weights.available() == ["mine", "piano", "techno"]


def test_an_environment_that_names_no_folder(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(nowhere / "site-packages" / "everwave" / "shipped", "techno.h5")
    monkeypatch.setenv("EVERWAVE_WEIGHTS", "missing")
    for call in (weights.available, lambda: weights.find("techno")):
        with pytest.raises(ModelError, match="EVERWAVE_WEIGHTS=missing: no such folder; set it"):
            call()


def test_paths(nowhere: Path) -> None:
    put(nowhere / "site-packages" / "everwave" / "shipped", "techno.h5")
    put(nowhere, "techno.h5", "techno", "plain")
    assert weights.find("techno.h5") == Path("techno.h5")
    assert weights.find(nowhere / "techno.h5") == nowhere / "techno.h5"
    assert weights.find("./plain") == weights.find("plain") == Path("plain")
    assert weights.find("techno").parent.name == "shipped"


@pytest.mark.parametrize("name", ["tecno", "missing.h5", "folder/techno", "", ".", "..", "x" * 300, "x" * 300 + ".h5"])
def test_unknown_names_list_what_there_is(nowhere: Path, name: str) -> None:
    put(nowhere / "site-packages" / "everwave" / "shipped", "techno.h5", "piano.h5")
    with pytest.raises(ModelError) as caught:
        weights.find(name)
    assert len(name) > 200 or "piano, techno" in str(caught.value)


def test_no_models_at_all(nowhere: Path) -> None:
    assert weights.available() == []
    with pytest.raises(ModelError, match="EVERWAVE_WEIGHTS"):
        weights.find("techno")


# -- joining --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair(smallest_model: ModelFile, nowhere: Path) -> tuple[Path, Path]:
    """An autoencoder file and a domain file beside it that needs it."""
    autoencoder, domain = nowhere / "autoencoder.h5", nowhere / "techno.h5"
    weights.write(
        autoencoder, part(smallest_model, "autoencoder", *AUTOENCODER, provenance={"data": "noise"}), "float32"
    )
    file = part(
        smallest_model, "domain", "generator", licence="MIT", autoencoder=weights.reference(autoencoder), provenance={"steps": 1}
    )  # fmt: skip
    weights.write(domain, file, "float32")
    return autoencoder, domain


def test_domain_is_joined_with_its_autoencoder(smallest_model: ModelFile, pair: tuple[Path, Path]) -> None:
    file = weights.read(pair[1])
    assert set(file.parameters) == {"generator"}
    assert_same(
        weights.resolve(file, pair[1]).parameters,
        {n: smallest_model.parameters[n] for n in (*AUTOENCODER, "generator")},
    )
    autoencoder = weights.read(pair[0])
    assert weights.resolve(autoencoder, pair[0]) is autoencoder


def test_autoencoder_among_the_shipped_ones(
    pair: tuple[Path, Path], nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = weights.read(pair[1])
    put(nowhere / "elsewhere")
    pair[0].rename(nowhere / "elsewhere" / "autoencoder.h5")
    with pytest.raises(ModelError, match="not beside it"):
        weights.resolve(file, pair[1])
    monkeypatch.setenv("EVERWAVE_WEIGHTS", str(nowhere / "elsewhere"))
    assert set(weights.resolve(file, pair[1]).parameters) == {*AUTOENCODER, "generator"}
    put(nowhere, "autoencoder.h5")  # beside it, but another version: the one that fits is taken
    assert set(weights.resolve(file, pair[1]).parameters) == {*AUTOENCODER, "generator"}


def test_another_autoencoder_is_refused(smallest_model: ModelFile, pair: tuple[Path, Path]) -> None:
    weights.write(pair[0], part(smallest_model, "autoencoder", *AUTOENCODER), "float16")
    with pytest.raises(ModelError, match="another version"):
        weights.resolve(weights.read(pair[1]), pair[1])


def test_an_autoencoder_that_does_not_fit_is_refused(smallest_model: ModelFile, pair: tuple[Path, Path]) -> None:
    other = replace(smallest_model.config, autoencoder=AutoencoderConfig(width=4, frame_latents=2, latents=2))
    wider = weights.random_model(other)
    for misfit in (part(wider, "autoencoder", *AUTOENCODER), weights.read(pair[1])):
        weights.write(pair[0], misfit)
        file = replace(weights.read(pair[1]), autoencoder=weights.reference(pair[0]))
        with pytest.raises(ModelError, match="does not fit"):
            weights.resolve(file, pair[1])


def test_the_domains_own_chunk_decoder_wins(smallest_model: ModelFile, pair: tuple[Path, Path]) -> None:
    own = weights.random_parameters("chunk_decoder", smallest_model.config, seed=99)
    file = weights.read(pair[1])
    weights.write(pair[1], replace(file, parameters=file.parameters | {"chunk_decoder": own}), "float32")
    joined = weights.resolve(weights.read(pair[1]), pair[1])
    assert_same({"chunk_decoder": joined.parameters["chunk_decoder"]}, {"chunk_decoder": own})
    assert set(joined.parameters) == {*AUTOENCODER, "generator"}


def test_bundle_needs_no_other_file(pair: tuple[Path, Path], tmp_path: Path) -> None:
    file = weights.read(pair[1])
    weights.write(tmp_path / "bundle.h5", weights.bundle(file, pair[1]), "float32")
    wanted = weights.resolve(file, pair[1]).parameters
    for original in pair:
        original.unlink()
    bundle = weights.read(tmp_path / "bundle.h5")
    assert_same(weights.resolve(bundle, tmp_path / "bundle.h5").parameters, wanted)
    assert (bundle.kind, bundle.autoencoder) == ("bundle", None)
    assert bundle.licence == "MIT; autoencoder: CC0-1.0"
    assert (bundle.provenance["steps"], bundle.provenance["autoencoder"]["data"]) == (1, "noise")
    with pytest.raises(ModelError, match="no generator"):
        weights.bundle(replace(bundle, kind="autoencoder"), tmp_path)


# -- random weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
def test_random_parameters(network: str) -> None:
    config = replace(PRESETS["tiny"], generator=replace(PRESETS["tiny"].generator, refiner=4))
    parameters = weights.random_parameters(network, config, seed=3)
    assert {name: a.shape for name, a in parameters.items()} == trace(network, config).parameters
    again = weights.random_parameters(network, config, seed=3)
    other = weights.random_parameters(network, config, seed=4)
    for name, array in parameters.items():
        assert array.dtype == np.float32
        assert np.all(array != 0)
        np.testing.assert_array_equal(array, again[name])
        assert not np.array_equal(array, other[name])
    plain = (a for name, a in parameters.items() if name.endswith("/kernel") and not name.endswith("_add/kernel"))
    kernel = max(plain, key=np.size)
    assert np.var(kernel) == pytest.approx(2 / np.prod(kernel.shape[:-1]), rel=0.2)


def test_the_kind_of_phase_is_read_and_is_an_angle_in_files_from_before_there_was_another() -> None:
    angles = PRESETS["tiny"]
    vectors, tuned = (replace(angles, autoencoder=replace(angles.autoencoder, phase=p)) for p in ("vector", "tuned"))
    assert "phase" not in angles.to_dict()["autoencoder"]
    for config in (angles, vectors, tuned):
        assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    bins = vectors.signal.bins
    channels = [trace("frame_decoder", c).outputs[1].shape[2] for c in (angles, vectors, tuned)]
    assert channels == [bins, 2 * bins, 2 * bins + bins // 8]
    data = vectors.to_dict()
    data["autoencoder"]["phase"] = "real"
    with pytest.raises(ModelError, match="phase='real'; it must be angle or vector or tuned"):
        Config.from_dict(data)
