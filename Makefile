# `make music`: a minute of music from a fresh clone. `make test`: every test. Both make their own environment.
PYTHON ?= python3

.PHONY: music test test-runtime test-trainer clean

music: .venv/ready
	.venv/bin/everwave generate --model techno --seed 1 --seconds 60 -o techno.wav

# The two suites are two processes, side by side: the runtime's tests must pass where no deep-learning framework can be imported.
test: .venv-test/ready
	$(MAKE) --jobs=2 --output-sync=target test-runtime test-trainer

test-runtime: .venv-test/ready
	PYTHONPATH=tests/runtime .venv-test/bin/python -m pytest -p no_frameworks tests/runtime

test-trainer: .venv-test/ready
	.venv-test/bin/python -m pytest tests/trainer

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --editable .
	touch $@

.venv-test/ready: pyproject.toml
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python -m pip install --quiet --editable ".[train,web,test]"
	touch $@

clean:
	rm -rf .venv .venv-test techno.wav
