"""Which recordings of a folder sound most like this one? By the cosine of their embeddings, after standardisation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import everwave
import numpy as np

ENDINGS = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("query", type=Path)
    parser.add_argument("--model", default="autoencoder")
    parser.add_argument("--count", type=int, default=5)
    options = parser.parse_args()
    model = everwave.load(options.model)
    vectors = {}
    for path in sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file()):
        try:
            vectors[path] = model.embed(path)
        except everwave.AudioError as error:
            print(f"skipped: {error}", file=sys.stderr)
    if not vectors:
        raise SystemExit(f"error: {options.folder}: holds no audio; give a folder that does")
    paths, index = list(vectors), np.stack(list(vectors.values()))
    mean, spread = index.mean(axis=0), index.std(axis=0) + 1e-6
    index, query = (index - mean) / spread, (model.embed(options.query) - mean) / spread
    cosines = index @ query / (np.linalg.norm(index, axis=1) * np.linalg.norm(query) + 1e-9)
    for i in np.argsort(-cosines)[: options.count]:
        print(f"{cosines[i]:6.3f}  {paths[i]}")


if __name__ == "__main__":
    try:
        main()
    except everwave.EverwaveError as error:
        raise SystemExit(f"error: {error}") from None
