# `make music`: a minute of music from a fresh clone. `make test`: every test. Both make their own environment.
PYTHON ?= python3
LONG := refiner training fine_tuning

.PHONY: music test test-runtime test-trainer-others $(LONG:%=test-trainer-%) clean

music: .venv/ready
	.venv/bin/everwave generate --model techno --seed 1 --seconds 60 -o techno.wav

# The suites are processes of their own, two at a time: the runtime's tests must pass where no deep-learning framework can be
# imported, and of the trainer's the files that take minutes fill up both cores.
test: .venv-test/ready
	$(MAKE) --jobs=2 --output-sync=target test-runtime test-trainer-others $(LONG:%=test-trainer-%)

test-runtime: .venv-test/ready
	PYTHONPATH=tests/runtime .venv-test/bin/python -m pytest -p no_frameworks tests/runtime

$(LONG:%=test-trainer-%): test-trainer-%: .venv-test/ready
	.venv-test/bin/python -m pytest tests/trainer/test_$*.py

test-trainer-others: .venv-test/ready
	.venv-test/bin/python -m pytest tests/trainer $(LONG:%=--ignore=tests/trainer/test_%.py)

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
