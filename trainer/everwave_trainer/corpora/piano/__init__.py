"""Piano played from MIDI files: onsets are exact because the notes are known.

`midi` reads a file's notes, `render` plays them on a soundfont, `build` fills a corpus with tracks.
"""
