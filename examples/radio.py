"""An endless radio: `python examples/radio.py | aplay`. A new style glides in every minute."""

import argparse
import itertools
import signal

import everwave
from everwave.audio import Writer

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="techno")
parser.add_argument("--minute", type=float, default=60.0, help="seconds between two styles")
options = parser.parse_args()

for number in ("SIGINT", "SIGPIPE"):  # Ctrl-C and a reader that leaves end it quietly
    if hasattr(signal, number):
        signal.signal(getattr(signal, number), signal.SIG_DFL)
model = everwave.load(options.model)
with model.stream(seed=7) as stream, Writer("-", model.sample_rate) as output:
    for style in itertools.count(1):
        while stream.position < style * options.minute:
            output.write(next(stream))
        stream.set(style=style, glide=options.minute / 4)
