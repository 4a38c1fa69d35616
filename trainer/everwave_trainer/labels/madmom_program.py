"""Onsets by madmom's recurrent networks; runs where `madmom` is installed, and imports nothing of ours."""

import json
import os
import sys

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what libraries print is no answer

from madmom.features.onsets import OnsetPeakPickingProcessor, RNNOnsetProcessor  # noqa: E402

strength, pick = RNNOnsetProcessor(), OnsetPeakPickingProcessor(fps=100)
for line in sys.stdin:
    answer: dict = {}
    try:
        answer = {"onsets": [round(float(time), 3) for time in pick(strength(line.rstrip("\n")))]}
    except Exception as error:  # whatever it is, the next track may do
        answer = {"error": repr(error)}
    print(json.dumps(answer), file=answers, flush=True)
