"""The web radio's API: what it gives, what it refuses, what it says of itself; and the command that serves it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import everwave
import numpy as np
import pytest
from everwave import weights
from everwave.audio import Writer
from everwave.config import PRESETS
from everwave.model import Model
from everwave.pipeline import OneBlasThread
from everwave.web import engine
from everwave.web import server as web_server
from everwave.weights import ModelFile
from radio_client import FRAME, Listener, Served, becomes, message, served
from websockets.exceptions import ConnectionClosed


@pytest.fixture(scope="module")
def model(small: dict[str, Model]) -> Model:
    return small["small"]


def pcm(samples: np.ndarray, tmp_path: Path) -> bytes:
    """The bytes of the WAV file that `everwave generate` writes for samples."""
    with Writer(tmp_path / "expected.wav", 44100) as writer:
        writer.write(samples)
    return (tmp_path / "expected.wav").read_bytes()


def samples_of(wav: bytes) -> bytes:
    return wav[wav.index(b"data") + 8 :]


# -- the same samples everywhere ------------------------------------------------------------------------------------


def test_generate_gives_the_file_that_the_command_writes(radio: Served, model: Model, tmp_path: Path) -> None:
    wishes = {"seed": 3, "seconds": 1.3, "truncation": 1.5, "start": 20.0, "bpm": 130.0, "style": 9}
    status, headers, content = radio.ask("/api/generate", {"model": "small", **wishes})
    assert status == 200, content
    assert headers["content-type"] == "audio/wav"
    assert headers["x-everwave-seed"] == "3"
    assert int(headers["content-length"]) == len(content)
    assert content == pcm(model.generate(**wishes), tmp_path)  # type: ignore[arg-type]


def test_a_seed_that_is_drawn_is_told(radio: Served, model: Model, tmp_path: Path) -> None:
    _, headers, content = radio.ask("/api/generate", {"seconds": 0.2})
    again = model.generate(0.2, int(headers["x-everwave-seed"]))
    assert content == pcm(again, tmp_path)


def test_the_plain_stream_is_the_piece_from_its_start(radio: Served, model: Model, tmp_path: Path) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", radio.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/api/stream?seed=5&start=2&bpm=125")
        answer = connection.getresponse()
        expected = pcm(model.generate(1.0, 5, start=2, bpm=125), tmp_path)
        header = len(expected) - len(samples_of(expected))
        received = answer.read(len(expected))
    assert received[header:] == samples_of(expected)
    assert received[header - 4 : header] == b"\xff" * 4  # a length that is not known
    assert radio.is_idle()


def test_what_a_listener_hears_under_changes_is_what_its_log_makes_again(radio: Served) -> None:
    with radio.listen("seed=7&bpm=140") as connection:
        listener = Listener(connection)
        listener.play_until(lambda: len(listener.samples) > 1 << 15)
        assert listener.change(bpm=122)["type"] == "changed"
        listener.play_until(lambda: len(listener.samples) > 1 << 16)
        listener.change(glide=2.0, style=99)
        listener.change(truncation=0.5, gain=0.7)
        refused = listener.change(bpm=1000)
        assert refused["type"] == "refused"
        assert "1000" in refused["message"]
        listener.play_until(lambda: len(listener.samples) > 1 << 18)
    log = listener.heard()
    assert {key for change in log["changes"] for key in change} >= {"bpm", "style", "truncation", "gain", "at"}
    status, headers, wav = radio.ask("/api/generate", {"log": log})
    assert status == 200, wav
    assert samples_of(wav) == listener.samples
    assert headers["content-disposition"] == 'attachment; filename="everwave-small-7.wav"'
    plain = radio.ask("/api/generate", {"seed": 7, "bpm": 140, "seconds": log["frames"] / 44100})[2]
    assert samples_of(plain) != listener.samples  # the changes were heard


def test_a_listener_gets_ahead_only_as_far_as_it_says(radio: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SLOW", 1000.0)  # where blocks are slow it gets more
    with radio.listen("seed=7") as connection:
        message(connection)
        received = 0
        for ahead in (0.6, 2.0):
            connection.send(json.dumps({"played": received, "ahead": ahead}))
            more = 0
            while more < ahead * 44100:
                more += len(connection.recv(timeout=20)) // FRAME
            with pytest.raises(TimeoutError):
                connection.recv(timeout=0.5)
            assert more < ahead * 44100 + 1024  # a block of this model
            received += more
    assert radio.is_idle()


def test_head_of_the_stream_is_no_stream(radio: Served) -> None:
    status, _, content = radio.ask("/api/stream", method="HEAD")
    assert (status, content) == (200, b"")
    for query, refused in (("seed=x", 400), ("model=nothing", 404)):
        assert radio.ask(f"/api/stream?{query}", method="HEAD")[0] == refused
    assert radio.is_idle()


# -- what is refused --------------------------------------------------------------------------------------------------

NOT_SERVED = [
    ({"seconds": "10"}, "seconds='10'"),
    ({"seconds": True}, "seconds=True"),
    ({"seconds": 0}, "0.1"),
    ({"seconds": 3601}, "3600"),
    ({"seconds": 1e999}, "JSON"),
    ({"seconds": 10**400}, "a huge number"),
    ({"seed": -1}, "seed=-1"),
    ({"seed": 1.5}, "seed=1.5"),
    ({"seed": 2**64}, "seed=18446744073709551616"),
    ({"seed": 10**400}, "seed=a huge number"),
    ({"bpm": 20}, "120 to 160"),
    ({"bpm": "/etc/passwd"}, "bpm='/etc/passwd'"),
    ({"bpm": [[0, 130], [1, 140]]}, "bpm=[[0, 130], [1, 140]]"),
    ({"density": 5}, "'density' is not known here"),
    ({"style": "a"}, "style='a'"),
    ({"model": 5}, "model=5"),
    ({"threads": 64}, "'threads'"),
    ([], "JSON object"),
    (b"{", "not JSON"),
    (b'{"seconds": NaN}', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b"\xff\xfe", "not JSON"),
    ({"log": 5}, "log"),
    ({"log": {}}, "log"),
    ({"log": {"frames": 10**12, "seed": 1}}, "3600"),
    ({"log": {"frames": 10, "seed": 1, "controls": {"bpm": "/etc/passwd"}}}, "only numbers"),
    ({"log": {"frames": 10, "seed": 1, "controls": {"bpm": {"a": ["/etc/passwd"]}}}}, "only numbers"),
    ({"log": {"frames": 10, "seed": 1, "start": 0, "sample_rate": 44100, "controls": {}, "changes": [5]}}, "changes"),
    ({"log": {"frames": 10, "seed": 1}, "seconds": 5}, "'seconds'"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "reason"), NOT_SERVED, ids=lambda value: str(value)[:40])
def test_a_bad_piece_is_one_line(radio: Served, body: Any, reason: str) -> None:
    content = json.dumps(body).encode() if not isinstance(body, bytes) else body
    status, error = radio.error("/api/generate", content)
    assert status == 400
    assert reason in error
    assert "\n" not in error
    assert len(error) < 250


@pytest.mark.parametrize("query", ["seed=x", "bpm=20", "bpm=nan", "bpm=/etc/passwd", "start=-1", "start=inf", "seed=1&seed=2", "x=1",
                                   "truncation=9", "seconds=5", "seed=" + "9" * 400, "seed=" + "9" * 5000])  # fmt: skip
def test_a_bad_stream_is_refused_on_both_ways_in(radio: Served, query: str) -> None:
    status, error = radio.error(f"/api/stream?{query}")
    assert status == 400
    with radio.listen(query) as connection:
        end = message(connection)
        assert end == {"type": "end", "message": error}
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=5)
        assert connection.close_code == 1008


def test_a_model_of_any_name(model: Model, tmp_path: Path) -> None:
    with served({"мир": model, 'a "b".wav': model}) as running:
        for name, file in (
            ("мир", "everwave-%D0%BC%D0%B8%D1%80-1.wav"),
            ('a "b".wav', "everwave-a%20%22b%22.wav-1.wav"),
        ):
            for _ in range(3):  # none of them takes a place for ever
                status, headers, content = running.ask("/api/generate", {"model": name, "seed": 1, "seconds": 0.2})
                assert status == 200, content
                assert headers["content-disposition"] == f"attachment; filename*=UTF-8''{file}"
        assert becomes(lambda: not running.radio._making)


def test_unknown_models_and_paths(radio: Served) -> None:
    for name in ("techno", "../../weights/techno", "/etc/passwd", "small.h5", ""):
        assert radio.error("/api/generate", {"model": name})[0] == 404
    for path in (
        "/etc/passwd",
        "/../etc/passwd",
        "/%2e%2e/etc/passwd",
        "/static/..%2f..%2fetc/passwd",
        "//etc/passwd",
        "/page/app.js",
    ):
        assert radio.error(path)[0] == 404
    status, headers, _ = radio.ask("/api/generate")
    assert (status, headers["allow"]) == (405, "POST")
    assert radio.error("/api/generate", {}, content_type="text/plain")[0] == 415


@pytest.mark.parametrize("text", ["x", "[]", '{"played": -1}', '{"played": 1000000000}', '{"played": "1"}', '{"ahead": 0}', '{"set": 5}',
                                  '{"set": {"bpm": "/etc/passwd"}}', '{"set": {"pitch": null}}', '{"set": {"seed": 1}}', '{"set": {}, "glide": -1}', '{"x": 1}'])  # fmt: skip
def test_a_bad_message_is_answered_and_the_music_goes_on(radio: Served, text: str) -> None:
    with radio.listen() as connection:
        listener = Listener(connection)
        connection.send(text)
        listener.play_until(lambda: len(listener.messages) > 0)
        assert listener.messages[0]["type"] == "refused"
        before = len(listener.samples)
        listener.play_until(lambda: len(listener.samples) > before + (1 << 15))


def test_null_puts_a_control_back(radio: Served) -> None:
    with radio.listen() as connection:
        listener = Listener(connection)
        for value in (7, None):
            connection.send(json.dumps({"set": {"style": value}}))
            listener.play_until(lambda value=value: len(listener.messages) > (value is None))
        assert [m["type"] for m in listener.messages[:2]] == ["changed", "changed"]
        assert listener.messages[1]["changes"][-1]["style"] is None


def test_a_damaged_file_among_the_shipped_ones_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from everwave.web.server import load_models

    weights.write(tmp_path / "good.h5", weights.random_model(PRESETS["tiny"]))
    (tmp_path / "bad.h5").write_bytes((tmp_path / "good.h5").read_bytes()[:-1000])
    monkeypatch.setattr(weights, "folders", lambda: [tmp_path])
    assert list(load_models([], 1, "float32")) == ["good"]
    assert "bad.h5" in caplog.text
    with pytest.raises(everwave.ModelError):
        load_models([str(tmp_path / "bad.h5")], 1, "float32")


def test_messages_that_are_too_long_or_no_text_end_the_stream(radio: Served) -> None:
    for data, code in (("x" * 20_000, 1009), (b"\0", 1003)):
        with radio.listen() as connection:
            message(connection)
            with contextlib.suppress(ConnectionClosed):
                connection.send(data)
                while True:
                    connection.recv(timeout=5)
            assert connection.close_code == code
        assert radio.is_idle()


opened: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if opened is not None and event in ("open", "os.listdir", "os.scandir", "subprocess.Popen"):
        opened.append(f"{event} {arguments[0]}")


def test_no_request_reaches_the_file_system(radio: Served) -> None:
    global opened

    def listened(query: str) -> None:
        with radio.listen(query) as connection:
            message(connection)

    requests: list[Callable[[], Any]] = [
        *[lambda path=path: radio.ask(path) for path in ("/", "/app.js", "/style.css", "/../pyproject.toml", "/api/models", "/api/openapi.json")],
        *[lambda body=body: radio.ask("/api/generate", body if isinstance(body, bytes) else json.dumps(body).encode()) for body, _ in NOT_SERVED],
        lambda: radio.ask("/api/generate", {"seconds": 0.2, "model": "small", "bpm": 130}),
        lambda: radio.ask("/api/stream?bpm=pyproject.toml"),
        lambda: radio.ask("/api/station?model=pyproject.toml"),
        lambda: listened("model=pyproject.toml"),
        lambda: listened("seed=1"),
    ]  # fmt: skip
    for request in requests:  # what is imported at first use is not the request's doing
        request()
    sys.addaudithook(_watch)
    # NumPy's networks, which no radio but that of tests serves, limit BLAS while any of them runs. The first to begin has
    # threadpoolctl look for BLAS in /proc/self/maps; that one is this test here, so that no request is.
    with OneBlasThread():
        opened = []
        try:
            for request in requests:
                request()
            assert radio.is_idle()
            assert opened == []
            Path(__file__).open().close()
            assert len(opened) == 1  # the hook does see
        finally:
            opened = None


# -- what the API says of itself ----------------------------------------------------------------------------------------


def test_openapi_describes_what_is_there(radio: Served) -> None:
    document = json.loads(radio.ask("/api/openapi.json")[2])
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {"/api/models", "/api/generate", "/api/stream", "/api/station"}
    text = json.dumps(document)
    for reference in {part.partition('"')[0] for part in text.split('"$ref": "')[1:]}:
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
    said = document["paths"]["/api/stream"]["get"]["description"]
    assert f"{web_server.MESSAGE_BYTES:,} bytes" in said
    parameters = {p["name"]: p["schema"] for p in document["paths"]["/api/stream"]["get"]["parameters"]}
    assert parameters["truncation"] == {"type": "number", "description": "how far from the usual: less is tamer",
                                        "minimum": 0, "maximum": 8, "default": 2.0}  # fmt: skip
    for name, value in {
        "seed": 1,
        "truncation": 1.0,
        "start": 1.0,
        "style": 2,
        "gain": 0.5,
        "bpm": 130,
        "model": "small",
    }.items():
        assert name in parameters
        assert radio.ask("/api/generate", {name: value, "seconds": 0.1})[0] == 200
    answer = json.loads(radio.ask("/api/models")[2])
    schema = document["paths"]["/api/models"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(answer) == set(schema["required"])
    assert set(answer["models"][0]) == set(schema["properties"]["models"]["items"]["required"])
    assert answer["models"][0]["conditions"][0]["name"] == "bpm"
    assert answer["models"][0]["lacks"] == {"density": "small was trained without note density"}


# -- the command ------------------------------------------------------------------------------------------------------------


def command(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "everwave", "serve", *arguments], stderr=subprocess.PIPE, text=True,
                            env=os.environ | environment)  # fmt: skip


@pytest.fixture(scope="module")
def weights_file(smallest_model: ModelFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from everwave import weights

    path = tmp_path_factory.mktemp("weights") / "tiny.h5"
    weights.write(path, smallest_model)
    return path


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_serves_and_stops_at_once(weights_file: Path, sent: signal.Signals) -> None:
    process = command("--model", str(weights_file), "--port", "0", "--threads", "1")
    assert process.stderr is not None
    with process:
        line = process.stderr.readline()
        assert line.startswith("everwave: tiny at http://127.0.0.1:"), line
        port = int(line.rsplit(":", 1)[1].strip().rstrip("/"))
        running = Served(None, port)  # type: ignore[arg-type]
        assert becomes(lambda: _answers(running), 30)
        with running.listen("") as connection:
            message(connection)
            process.send_signal(sent)
            begin = time.monotonic()
            code = process.wait(10)
            assert time.monotonic() - begin < 4
            assert code in ((130,) if sent == signal.SIGINT else (-sent, 128 + sent))
        assert "Traceback" not in process.stderr.read()


def test_the_command_makes_no_fuss_about_those_who_leave_or_are_left(weights_file: Path) -> None:
    """No traceback for a listener who is gone before it is answered, nor where downloads go on when the server stops."""
    arguments = ("--model", str(weights_file), "--port", "0", "--threads", "1", "--name", "radio.example")
    with command(*arguments) as process, contextlib.ExitStack() as stack:
        assert process.stderr is not None
        port = int(process.stderr.readline().rsplit(":", 1)[1].strip().rstrip("/"))
        running = Served(None, port)  # type: ignore[arg-type]
        assert becomes(lambda: _answers(running), 30)
        proxied = {"host": "radio.example", "origin": "https://radio.example"}
        assert running.ask("/api/models", **proxied)[0] == 200
        for host, origin, status in (
            ("radio.example:443", "https://radio.example", 200),  # as some proxies pass it on
            ("radio.example", "http://radio.example:80", 200),
            ("radio.example:443", "http://radio.example", 403),
            ("radio.example:8443", "https://radio.example", 403),
            ("radio.example", "https://radio.example:x", 403),
        ):
            assert running.ask("/api/models", host=host, origin=origin)[0] == status
        assert running.ask("/api/models", host="other.example")[0] == 403
        for _ in range(10):
            with running.listen("") as connection:
                message(connection)
                connection.send('{"set": {"truncation": 1}}')
        with socket.create_connection(("127.0.0.1", port)) as broken:
            head = "POST /api/generate HTTP/1.1|Host: 127.0.0.1|Content-Type: application/json|Content-Length: 1000||"
            broken.sendall(head.replace("|", "\r\n").encode() + b'{"seed"')
            time.sleep(0.3)  # it arrives, and nothing follows
        for taken in (1000, 0):  # one is read for a while, the other never
            download = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            stack.enter_context(contextlib.closing(download))
            download.request("POST", "/api/generate", '{"seconds": 3000}', {"content-type": "application/json"})
            download.getresponse().read(taken)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) in (-signal.SIGTERM, 143)
        assert process.stderr.read() == "everwave: stopped by SIGTERM\n"


@pytest.mark.parametrize("name", ["https://radio.example", "radio.example:443", ""])
def test_a_name_is_a_host_alone(weights_file: Path, name: str) -> None:
    from everwave.web.server import serve

    with pytest.raises(everwave.UsageError, match="give a host name alone"):
        serve([str(weights_file)], "127.0.0.1", 0, 1, "float32", 1, [name])


def _answers(running: Served) -> bool:
    try:
        return running.ask("/api/models")[0] == 200
    except OSError:
        return False


def test_the_command_says_what_is_wrong(weights_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / weights_file.name
    other.parent.mkdir()
    other.write_bytes(weights_file.read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, reason in ((("--port", port), f"port {port} (Address already in use);"), (("--port", "70000"), "--port 70000"),
                                  (("--model", str(other)), "two models are called tiny")):  # fmt: skip
            with command("--model", str(weights_file), "--threads", "1", *arguments) as process:
                assert process.wait(60) == 2
                assert process.stderr is not None
                assert reason in process.stderr.read()


def test_models_of_runs_are_called_by_their_folders(weights_file: Path, tmp_path: Path) -> None:
    paths = [tmp_path / run / "model.h5" for run in ("mine", "yours")]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(weights_file.read_bytes())
    assert set(web_server.load_models([str(path) for path in paths], 1, "float32")) == {"mine", "yours"}


def test_the_reason_is_that_of_the_system_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its numbers have no text in the C library."""

    def refused(*_: object, **__: object) -> None:
        text = "Only one usage of each socket address is normally permitted"
        raise OSError(10048, f"{text} (while attempting to bind on address ('127.0.0.1', 8000))")

    monkeypatch.setattr(socket, "create_server", refused)
    with pytest.raises(
        everwave.UsageError, match=r"port 8000 \(Only one usage of each socket address is normally permitted\);"
    ):
        web_server.listening("127.0.0.1", 8000)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_all_addresses_are_those_of_ipv4_too() -> None:
    with web_server.listening("::", 0) as server:
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, server.getsockname()[1]), timeout=5).close()


@pytest.mark.parametrize("missing", ["uvicorn", "websockets"])
def test_the_command_without_the_extra(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from everwave.cli import main

    monkeypatch.setitem(sys.modules, "everwave.web.server", None)
    monkeypatch.delitem(sys.modules, "everwave.web.server")
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("everwave.weights.available", list)  # else it would serve
    assert main(["serve"]) == 2
    assert f"serve needs {missing}; `pip install starlette uvicorn websockets`" in capsys.readouterr().err
