# `ops/just` makes .venv and runs `just` with this file; once .venv is there, `just` alone does as well.

set positional-arguments
export PATH := justfile_directory() / ".venv/bin:" + env("PATH")

nohup := if env("NOHUP", "") == "" { "" } else { "trap '' HUP;" }

[private]
help:
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} --list --unsorted

# Collect: for real if a key or an address is set, else `demo`
[continue("SIGHUP", "SIGINT", "SIGQUIT"), no-exit-message]
run *ARGS:
    @command=$(python -c 'import os; from polygon_live.config import wants_demo as d; print(("run", "demo")[d(os.environ)])') && {{ nohup }} exec polygon-live $command "$@"

# Everything on this machine: a simulated Polygon, the three stores, and the collector
[continue("SIGHUP", "SIGINT", "SIGQUIT"), no-exit-message]
demo *ARGS:
    @{{ nohup }} exec polygon-live demo "$@"

# A simulated Polygon alone
[continue("SIGHUP", "SIGINT", "SIGQUIT"), no-exit-message]
simulate *ARGS:
    @{{ nohup }} exec polygon-live simulate "$@"

# The tests, the quick ones first; arguments go to pytest (`-m "not engine and not fetched"` is the quick ones)
test *ARGS:
    @exec pytest --numprocesses 3 --dist loadfile "$@"

# Chaos on real engines, the long form: `just chaos --kills 50 --seed 7`; without a seed, one at random
chaos *ARGS:
    @exec python -m tests.chaos "$@"

# Configurations posted at random while ticks flow, the long form: `just reload --posts 300 --seed 7`
reload *ARGS:
    @exec python -m tests.reload "$@"

# What the journal costs: alone, and the pipeline with it and without; one table each, ratios within one run
bench *ARGS:
    @python -m tests.bench.journal "$@"
    @python -m tests.bench.pipeline

# One store away while a million ticks pass, then back: [timescale|nats|kafka] [ticks] [ticks a second]
bench-away *ARGS:
    @exec python -m tests.bench.away "$@"

# Fetch the engines that no Python package carries; the tests do it too, when they come to them
engines:
    @exec python -m tests.engines

# The collector in virtual time under faults drawn from seeds: SEEDS=10000 FROM=0, or SEED=17 to see one again
sim *ARGS:
    @exec python -m tests.simulation "$@"

# Break the collector on purpose, one way after the other, and see that the simulation finds it
sim-mutants *ARGS:
    @exec python -m tests.simulation.mutants "$@"

# Style, types and the direction of imports
lint:
    ruff check . ops/just ops/healthcheck
    ruff format --check . ops/just ops/healthcheck
    mypy
    lint-imports

# Everything that CI runs
check: lint test

# The container image, by podman. Is pip told of a mirror or a certificate? `--secret id=pip.conf,src=…`, `id=ca.crt`
image *ARGS:
    podman build --format docker --tag "localhost/polygon-live:$(python -c 'import polygon_live as p; print(p.__version__)')" "$@" .

# Build the image and try it against real servers: needs root, podman, runc and debootstrap; some minutes
image-test *ARGS:
    @exec pytest tests/image.py "$@"

# Write the pins anew from pyproject.toml: everything, and of that what the image needs
pins:
    #!/usr/bin/env bash
    set -euo pipefail
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    echo "fetching uv, which finds the pins" >&2
    python -m pip install --quiet --target "$scratch" uv
    echo "ops/requirements.txt" >&2
    "$scratch/bin/uv" pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 \
        --extra embedded --extra dev --custom-compile-command "ops/just pins" \
        --output-file ops/requirements.txt pyproject.toml
    echo "ops/requirements-run.txt" >&2
    "$scratch/bin/uv" pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 \
        --constraint ops/requirements.txt --no-annotate --custom-compile-command "ops/just pins" \
        --output-file ops/requirements-run.txt pyproject.toml

# Remove what can be made again; .venv stays
clean:
    rm -rf .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist
    find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
