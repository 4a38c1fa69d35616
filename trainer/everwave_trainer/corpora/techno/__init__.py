"""Techno composed by program: tempo, beats and onsets are exact because they are what it was made from.

`score` decides what is played, `kits` has the one-shots, `kernels` the voices and effects, `mix` turns a score into
samples, `build` fills a corpus with tracks.
"""
