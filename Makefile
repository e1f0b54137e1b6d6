# Needs git, make and Python >= 3.11; everything else goes into .venv in this folder.
PYTHON ?= python3
UV := .venv/uv/bin/uv
export UV_PYTHON_DOWNLOADS := never

.PHONY: install demo docs test check clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	test -x $(UV) || ($(PYTHON) -m venv .venv/uv && .venv/uv/bin/pip install --quiet uv==0.13.8)
	$(UV) sync --python .venv/bin/python
	touch $@

# What people combine this with, and what builds the documentation: a good deal to download, so not for the demo.
.venv/integrations: .venv/installed
	$(UV) sync --python .venv/bin/python --all-groups
	touch $@

# --inexact: what other groups have brought stays.
.venv/docs: .venv/installed
	$(UV) sync --python .venv/bin/python --inexact --group docs
	touch $@

# The documentation as a site; it opens from its folder, only the search needs a server.
docs: .venv/docs
	.venv/bin/python docs/build.py --out out/site

# The main job on the embedded default: SQLite, Ray on this machine, the digit scans that ship inside scikit-learn.
# Noisy timing is accepted, with a warning: people who try something out have other programs open.
demo: install
	mkdir -p out/demo
	.venv/bin/tuner launch digits --storage sqlite:///out/demo/tuner.db --accept-noisy-timing
	.venv/bin/tuner export digits --storage sqlite:///out/demo/tuner.db --format html --out out/demo/front.html
	.venv/bin/tuner export digits --storage sqlite:///out/demo/tuner.db --format csv --out out/demo/front.csv
	.venv/bin/tuner export digits --storage sqlite:///out/demo/tuner.db --format json --out out/demo/front.json
	.venv/bin/tuner export digits --storage sqlite:///out/demo/tuner.db --format schedules --out out/demo/schedules
	@echo
	@echo "Open out/demo/front.html in a browser: the front, with each schedule as a strip. To ask more of this study, here:"
	@echo
	@echo "    source .venv/bin/activate"
	@echo "    export TUNER_STORAGE=sqlite:///out/demo/tuner.db"
	@echo "    tuner best digits --max-drop 0.005"
	@echo
	@echo "docs/tutorial.md goes on from there; README.md, 'A study', has all commands."

# Two processes, a file at a time: launches wait a lot, for Ray and for workers that import torch.
test: .venv/integrations
	.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: .venv/integrations
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

clean:
	rm -rf .venv out runs build *.egg-info
