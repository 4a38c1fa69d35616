"""A thousand pieces, one seed each, in a folder: files that sort, and a table of seeds. Run it again and it goes on."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import everwave
from everwave.audio import Writer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="techno")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("-o", "--output", type=Path, default=Path("pieces"))
    options = parser.parse_args()
    model = everwave.load(options.model)
    options.output.mkdir(parents=True, exist_ok=True)
    rows, made = [], 0
    for seed in range(options.count):
        path = options.output / f"{seed:07}.flac"  # the same name whatever the count
        style = seed // 10  # ten pieces of each style
        if not path.exists():
            tags = {"title": f"{seed}, style {style}"}
            with (
                model.stream(seed, seconds=options.seconds, style=style) as piece,
                Writer(path, model.sample_rate, tags=tags, keep_partial=False) as writer,  # what is there is complete
            ):
                for block in piece:
                    writer.write(block)
            made += 1
        rows.append((path.name, seed, style))
    with (options.output / "pieces.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "seed", "style"), *rows])
    print(f"{options.output}: {made} pieces made, {len(rows) - made} were there")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("interrupted; run it again and it goes on") from None
    except (everwave.EverwaveError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
