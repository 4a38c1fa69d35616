"""The web radio's page in a real headless Chromium: it plays, its controls work, and what arrives is what `generate` writes."""

from __future__ import annotations

import base64
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import chromium
import numpy as np
import pytest
from everwave.config import Condition, Config
from everwave.model import Model, load
from everwave.weights import random_model
from radio_client import EASY, FRAME, served

pytestmark = pytest.mark.skipif(not chromium.find(), reason="no Chromium here; Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def techno() -> Model:
    return load("techno", 2)


@pytest.fixture(scope="module")
def address(techno: Model, small: dict[str, Model]) -> Iterator[str]:
    with served({"techno": techno, **small}) as radio:  # the small one has a tempo
        yield radio.address


@pytest.fixture
def page() -> Iterator[chromium.Page]:
    with chromium.browser(chromium.find() or "") as page:
        yield page
        assert page.problems() == []


def play(page: chromium.Page, seconds: float = 0.5) -> None:
    page.click("#play")
    played(page, seconds)


def played(page: chromium.Page, seconds: float) -> None:
    """Wait until so much of the stream has been played."""
    page.wait(f"everwave.session() && everwave.session().played > {round(seconds * 44100)}", seconds + 30)


def slide(page: chromium.Page, name: str, value: float) -> None:
    """What a hand does to a slider."""
    page.js(f"(() => {{ const e = document.getElementById('{name}'); e.value = {value};"
            " e.dispatchEvent(new Event('input', {bubbles: true})); })()")  # fmt: skip


def log(page: chromium.Page) -> dict:
    return json.loads(page.js("JSON.stringify(everwave.last().heard())"))


def pcm(samples: np.ndarray) -> bytes:
    """16-bit samples as `everwave generate` writes them."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes()


def test_what_arrives_and_what_is_played_is_what_generate_writes(
    page: chromium.Page, address: str, techno: Model
) -> None:
    page.call("Page.setBypassCSP", enabled=True)  # for the recorder, which is no file of the page's
    page.open(address + "#model=techno&seed=7&truncation=1.5")
    page.js(RECORD)
    play(page, 2.0)
    messages, samples = page.received()
    assert messages[0]["type"] == "start"
    frames = len(samples) // FRAME
    bpm = float(page.js("document.getElementById('bpm').value"))
    expected = techno.generate(frames / 44100, seed=7, truncation=1.5, bpm=bpm)
    assert samples == pcm(expected)

    page.click("#play")
    sound = np.frombuffer(base64.b64decode(page.js("encoded()")), np.float32).reshape(-1, 2, 128)
    sound = sound.transpose(0, 2, 1).reshape(-1, 2)
    wanted = (np.frombuffer(pcm(expected), "<i2").reshape(-1, 2) / 32768).astype(np.float32)
    sound, wanted = (x[x.any(axis=1)] for x in (sound, wanted))  # a busy machine may put silence in between
    begin = int(np.flatnonzero((wanted == sound[0]).all(axis=1))[0])  # the recorder may be late by some samples
    assert begin < 8192
    count = min(len(sound), len(wanted) - begin)
    assert count > 44100
    np.testing.assert_array_equal(sound[:count], wanted[begin : begin + count])


# What reaches the loudspeaker, from the first sample on: full volume, and a tap behind the last node
RECORD = """(() => {
    const heard = [];
    globalThis.encoded = () => {
        const bytes = new Uint8Array(new Float32Array(heard.flatMap((block) => [...block])).buffer);
        let text = "";
        for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
        return btoa(text);
    };
    const code = `registerProcessor("tap", class extends AudioWorkletProcessor {
        process([input]) {
            if (input.length === 2) this.port.postMessage(input.map((channel) => channel.slice()));
            return true;
        }
    })`;
    document.getElementById("volume").value = 100;
    document.getElementById("play").addEventListener("click", () => {
        const session = everwave.session();
        session.context.audioWorklet.addModule(URL.createObjectURL(new Blob([code], { type: "text/javascript" }))).then(() => {
            const tap = new AudioWorkletNode(session.context, "tap");
            tap.port.onmessage = ({ data }) => heard.push(...data);
            session.loudness.connect(tap).connect(session.context.destination);
        });
    }, { once: true });
})()"""


def test_a_download_is_what_was_heard_under_changes(page: chromium.Page, address: str, tmp_path: Path) -> None:
    page.open(address + "#model=techno&seed=11")
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    assert page.js("document.getElementById('download').disabled")
    play(page)
    slide(page, "truncation", 0.7)
    slide(page, "glide", 2)
    page.click("#style")
    page.wait("everwave.session().delays.length && !everwave.session().pending.length")
    slide(page, "truncation", 3)
    page.wait("everwave.session().delays.length >= 2")
    end = time.monotonic() + 30
    while log(page)["frames"] <= 2 * 44100:  # a fast machine has both changes heard before
        assert time.monotonic() < end
        time.sleep(0.05)
    page.click("#play")
    heard = log(page)
    assert {"truncation", "style"} <= {key for change in heard["changes"] for key in change}
    _, samples = page.received()
    page.click("#download")
    file = tmp_path / "everwave-techno-11.wav"
    end = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < end, page.js("document.getElementById('status').textContent")
        time.sleep(0.05)
    wav = file.read_bytes()
    assert wav[wav.index(b"data") + 8 :] == samples[: heard["frames"] * FRAME]
    assert heard["frames"] > 2 * 44100
    assert heard["frames"] > max(change["at"] for change in heard["changes"])


def test_tempo_where_the_model_has_it_and_the_reason_where_not(page: chromium.Page, address: str) -> None:
    page.open(address + "#model=techno&seed=1")
    assert not page.js("document.getElementById('bpm').disabled")
    assert page.js("document.getElementById('density').disabled")
    assert page.js("document.getElementById('density-why').textContent") == "techno was trained without note density."
    page.js(
        "(() => { const e = document.getElementById('model'); e.value = 'small'; e.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    assert not page.js("document.getElementById('bpm').disabled")
    assert page.js("document.getElementById('bpm-why').textContent") == "120 to 160 bpm"
    assert page.js("document.getElementById('density').disabled")
    slide(page, "bpm", 150)
    play(page)
    slide(page, "bpm", 125)
    page.wait("everwave.session().delays.length")
    heard = log(page)
    assert heard["controls"]["bpm"] == 150
    assert heard["changes"][0]["bpm"] == 125


def test_a_card_for_a_condition_that_the_page_was_not_written_for(page: chromium.Page, smallest: Config) -> None:
    piano = Condition("piano", "", 0.5, 0.5, 0.0, 1.0, choices=(0.0, 1.0))
    config = replace(smallest, generator=replace(smallest.generator, conditions=(piano,)))
    model = Model.from_parts(random_model(config, seed=1), 1, backend="numpy")
    with served({"both": model}) as radio:
        page.open(radio.address + "#model=both&seed=3")
        assert page.js("document.querySelector('label[for=piano]').textContent") == "Piano"
        assert page.js("document.getElementById('piano').value") == "0"  # one of its choices, not their mean
        assert page.js("document.getElementById('bpm').disabled")
        play(page)
        slide(page, "piano", 1)
        page.wait("everwave.session().delays.length")
        heard = log(page)
        assert (heard["controls"]["piano"], heard["changes"][0]["piano"]) == (0, 1)


def test_keyboard_link_and_seed(page: chromium.Page, address: str) -> None:
    page.open(address + "#model=small&seed=5&truncation=1.2&style=77&bpm=130")
    page.press(" ", 32, " ")
    played(page, 0.3)
    heard = log(page)
    assert (heard["seed"], heard["controls"]) == (5, {"truncation": 1.2, "style": 77, "gain": 1, "bpm": 130})
    page.js("document.getElementById('play').focus()")
    page.press("s", 83, "s")
    page.wait("everwave.session().delays.length")
    style = page.js("document.querySelector('output[for=style]').value")
    assert style != "77"
    page.js("document.activeElement.blur()")
    page.press(" ", 32, " ")
    assert page.wait("everwave.session() === null || undefined") is True
    page.click("#share")
    page.wait("location.hash.includes('style')")
    shared = dict(pair.split("=") for pair in page.js("location.hash")[1:].split("&"))
    assert shared == {"model": "small", "seed": "5", "truncation": "1.2", "style": style, "bpm": "130"}
    # a new piece is another seed, and plays on if one was playing
    play(page, 0.1)
    page.click("#new-seed")
    page.wait("everwave.session() && everwave.session().log && everwave.session().log.seed !== 5")
    assert page.js("everwave.session().log.controls.style") is None
    # every control can be reached by the tab key, in the order in which it is seen
    page.open(address + "?again#model=small")
    order = []
    for _ in range(11):
        page.press("Tab", 9)
        order.append(page.js("document.activeElement.id"))
    assert order[:10] == ["play", "bpm", "truncation", "style", "glide", "seed", "new-seed", "model", "volume", "share"]


def status(page: chromium.Page) -> str:
    return page.js("document.getElementById('status').textContent")


def test_a_key_that_is_held_counts_once(page: chromium.Page, address: str) -> None:
    page.open(address + "#model=small&seed=5")
    hold = """(key) => { for (let i = 0; i < 20; i++)
        document.body.dispatchEvent(new KeyboardEvent('keydown', { key, repeat: true, bubbles: true, cancelable: true })); }"""
    page.press(" ", 32, " ")
    page.js("globalThis.first = everwave.session(); globalThis.sent = 0;"
            " const set = first.set; first.set = function (...change) { sent++; set.apply(this, change); }")  # fmt: skip
    page.js(f"({hold})(' ')")
    played(page, 0.3)
    assert page.js("everwave.session() === first")
    page.press("s", 83, "s")
    style = page.js("document.querySelector('output[for=style]').value")
    page.js(f"({hold})('s')")
    page.wait("first.delays.length")
    assert page.js("document.querySelector('output[for=style]').value") == style
    page.js("for (let i = 0; i < 20; i++) document.getElementById('style').click()")  # glides are held back as well
    page.wait("first.delays.length === 2")
    assert page.js("sent") == 2
    style = page.js("document.querySelector('output[for=style]').value")
    assert str(log(page)["changes"][-1]["style"]) == style


def test_a_slider_that_is_moved_while_the_stream_begins(page: chromium.Page, address: str) -> None:
    page.open(address + "#model=small&seed=5")
    page.js("document.getElementById('play').addEventListener('click', () => {"
            " everwave.session().set({ truncation: 0.5 }); everwave.session().set({ bpm: 150 }, 2); })")  # fmt: skip
    page.click("#play")
    page.wait("everwave.session().delays.length")
    (change,) = log(page)["changes"]
    assert (change["truncation"], change["bpm"], change["glide"]) == (0.5, 150, 2)


def test_seeds_are_exact_to_the_last(page: chromium.Page, address: str, tmp_path: Path) -> None:
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.open(address + f"#model=small&seed={2**64 - 1}&style={2**64 - 3}")
    assert status(page) == "Press play"
    play(page, 0.3)
    page.click("#play")
    _, samples = page.received()
    page.click("#download")
    file = tmp_path / f"everwave-small-{2**64 - 1}.wav"
    end = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < end, status(page)
        time.sleep(0.05)
    wav = file.read_bytes()
    sound = wav[wav.index(b"data") + 8 :]
    assert sound == samples[: len(sound)]
    page.click("#share")
    page.wait("location.hash.includes('truncation')")
    assert f"seed={2**64 - 1}" in page.js("location.hash")
    assert f"style={2**64 - 3}" in page.js("location.hash")


def test_what_a_link_asks_for_in_vain_is_said(page: chromium.Page, address: str) -> None:
    page.open(address + f"#model=small&seed={2**64}&style=blue&truncation=9&bpm=400")
    said = status(page)
    seed = page.js("document.getElementById('seed').value")
    assert f"seed={2**64} is not a whole number from 0 to {2**64 - 1}, {seed} is taken" in said
    assert "style=blue is not a whole number" in said
    assert "truncation=9 cannot be set here, 8 is taken" in said
    assert "bpm=400 cannot be set here, 160 is taken" in said
    page.open(address + "?more#model=small&seed=5&truncation=6.5&bpm=121")
    assert status(page) == "Press play"
    play(page, 0.1)
    assert log(page)["controls"]["truncation"] == 6.5
    page.js(
        "(() => { const e = document.getElementById('seed'); e.value = '5x'; e.dispatchEvent(new Event('change')); })()"
    )
    assert status(page).startswith("Seed 5x: give a whole number")
    assert page.js("everwave.session()") is None


def test_why_a_long_piece_is_not_saved(page: chromium.Page, small: dict[str, Model]) -> None:
    with served(small, replace(EASY, generate_seconds=0.5)) as radio:
        page.open(radio.address + "#seed=3")
        play(page, 0.7)
        page.click("#play")
        assert page.js("document.getElementById('download').disabled")
        assert page.js("document.getElementById('keep-why').textContent").startswith(
            "You heard more than the 0:00 that"
        )


def test_every_control_has_a_name_for_screen_readers(page: chromium.Page, address: str) -> None:
    page.open(address + "#model=small&seed=5")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    names: dict[str, list[str]] = {}
    for node in nodes:
        if not node["ignored"]:
            names.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert sorted(names["slider"]) == ["Glide", "Tempo", "Variety", "Volume"]
    assert {"Play", "New style", "Original", "New piece", "Save WAV", "Copy link"} == set(names["button"])
    assert names["combobox"] == ["Model"]
    assert names["textbox"] == ["Seed"]
    assert "Spectrogram of what is playing" in names["image"]
    assert names["heading"] == ["everwave"]
    play(page, 0.1)
    assert page.js("document.getElementById('play').getAttribute('aria-label')") == "Stop"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read(page: chromium.Page, address: str, scheme: str) -> None:
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    for width, height in ((320, 640), (390, 844), (844, 390), (1280, 900)):
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 900
        )
        page.open(address + f"?{width}#model=small&seed=4294967295")
        assert page.js("document.documentElement.scrollWidth") <= width
        for name in page.js(
            "[...document.querySelectorAll('button, select, input:not([hidden], [disabled])')].map((e) => e.id)"
        ):
            box = page.js(
                f"(() => {{ const r = document.getElementById('{name}').getBoundingClientRect(); return [r.left, r.right, r.height]; }})()"
            )
            assert box[0] >= 0, name
            assert box[1] <= width, name
            assert box[2] >= 24, name  # WCAG 2.2, 2.5.8
        clipped = page.js(
            "[...document.querySelectorAll('button')].filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.id)"
        )
        assert clipped == []
    assert page.js(CONTRASTS) == []


CONTRASTS = """(() => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const channels = (colours) => {
        canvas.fillStyle = "#fff";
        canvas.fillRect(0, 0, 1, 1);
        for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (e) => (e ? [...behind(e.parentElement), getComputedStyle(e).backgroundColor] : []);
    return [...document.querySelectorAll("p, label, output, button, strong, h1, time, #status, select, input:not([type=range])")]
        .filter((e) => e.offsetParent && !e.disabled && !e.hidden && (e.textContent || e.value).trim())
        .map((e) => {
            const [a, b] = [light(channels([...behind(e), getComputedStyle(e).color])), light(channels(behind(e)))].sort();
            return [e.id || e.textContent, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
        }).filter(([, contrast]) => contrast < 4.5);
})()"""  # WCAG 2.2, 1.4.3


def test_the_spectrogram_shows_the_music(page: chromium.Page, address: str) -> None:
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    page.open(address + "#model=techno&seed=7")
    silent = picture(page)
    play(page, 1.5)
    music = picture(page)
    assert len(np.unique(silent.reshape(-1, 3), axis=0)) == 1
    newest = music[:, -30:].astype(int)
    assert np.abs(newest - silent[:, -30:]).max() > 100
    low, high = newest[-40:].sum(axis=2).mean(), newest[:10].sum(axis=2).mean()
    assert low > high + 100  # the bass is loudest, at the bottom; nothing is above the highest tone
    assert (music[:, :30] == silent[:, :30]).all()  # it runs from the right


def picture(page: chromium.Page) -> np.ndarray:
    """The canvas (height, width, 3) uint8."""
    url = page.js("document.getElementById('spectrogram').toDataURL('image/png')")
    return read_png(base64.b64decode(url.partition(",")[2]))


def read_png(content: bytes) -> np.ndarray:
    """(height, width, 3) of an 8-bit RGB or RGBA PNG without interlacing (W3C PNG, section 9)."""
    chunks, at = {}, 8
    while at < len(content):
        length, kind = struct.unpack(">I4s", content[at : at + 8])
        chunks[kind] = chunks.get(kind, b"") + content[at + 8 : at + 8 + length]
        at += 12 + length
    width, height, _, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    size = {2: 3, 6: 4}[colour]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + width * size)
    image = np.zeros((height, width + 1, size), np.uint8)  # one pixel of zeros on the left
    above = np.zeros((width + 1, size), np.uint8)
    for y, row in enumerate(rows):
        line, pixels = image[y], row[1:].reshape(width, size)
        if row[0] in (0, 2):
            line[1:] = pixels + (above[1:] if row[0] == 2 else 0)
        elif row[0] == 1:
            line[1:] = np.cumsum(pixels, axis=0, dtype=np.uint8)
        else:
            for x in range(width):
                a, b, c = (int_(v) for v in (line[x], above[x + 1], above[x]))
                if row[0] == 3:
                    guess = (a + b) // 2
                else:
                    pa, pb, pc = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)
                    guess = np.where((pa <= pb) & (pa <= pc), a, np.where(pb <= pc, b, c))
                line[x + 1] = (pixels[x] + guess).astype(np.uint8)
        above = line
    return image[:, 1:, :3]


def int_(values: np.ndarray) -> np.ndarray:
    return values.astype(int)


def test_it_plays_where_browsers_offer_no_worklet(page: chromium.Page, small: dict[str, Model]) -> None:
    """By http from another machine: here, from this one's outer address."""
    outer = next((address for address in _addresses() if not address.startswith("127.")), None)
    if outer is None:
        pytest.skip("this machine has no address but its own")
    page.expected = ("Cross-Origin-Opener-Policy header has been ignored", "ScriptProcessorNode is deprecated")
    with served(small, host=outer) as radio:
        page.open(radio.address + "#seed=3")
        assert not page.js("isSecureContext")
        play(page, 1.0)
        _, samples = page.received()
        assert samples == pcm(small["small"].generate(len(samples) / FRAME / 44100, seed=3, bpm=140))
        page.click("#share")  # no clipboard there: a field to copy from
        page.wait("!document.getElementById('link').hidden && document.getElementById('link').value.includes('seed=3')")


def _addresses() -> list[str]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # sends nothing
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return []
        return [probe.getsockname()[0]]


def test_the_page_says_what_went_wrong(page: chromium.Page, small: dict[str, Model]) -> None:
    with served(small) as radio:
        page.open(radio.address + "#seed=3")
        play(page, 0.2)
    page.wait("document.getElementById('status').textContent.startsWith('The connection was lost')")
    assert page.js("document.getElementById('play').getAttribute('aria-label')") == "Play"
