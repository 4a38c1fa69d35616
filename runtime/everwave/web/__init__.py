"""`everwave serve`: a web radio and a small JSON API over any number of models. Needs the extra `[web]`."""
