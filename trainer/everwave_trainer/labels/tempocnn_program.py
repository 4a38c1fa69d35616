"""Tempo by Tempo-CNN (Schreiber & Mueller, ISMIR 2018); runs where `tempocnn` is installed, and imports nothing of ours."""

import json
import os
import sys

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what TensorFlow prints is no answer

from tempocnn.classifier import TempoClassifier  # noqa: E402
from tempocnn.feature import read_features  # noqa: E402

classifier = TempoClassifier("cnn")
for line in sys.stdin:
    answer: dict = {}
    try:
        features = read_features(line.rstrip("\n"))
        answer = {"bpm": float(classifier.estimate_tempo(features, interpolate=True))}
    except Exception as error:  # whatever it is, the next track may do
        answer = {"error": repr(error)}
    print(json.dumps(answer), file=answers, flush=True)
