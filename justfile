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

# The tests, the long ones first; arguments go to pytest (`-m "not engine and not fetched"` is the quick ones)
test *ARGS:
    @exec pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder "$@"

# The quick tests whose subject knows the market's hours or asks the clock, with that clock set to a Saturday
saturday *ARGS:
    @exec pytest --saturday -m "not engine and not fetched" "$@" \
        tests/test_calendar.py tests/test_check_verdicts.py tests/test_feed.py tests/test_gaps.py tests/test_page.py \
        tests/test_pipeline.py tests/test_silence.py tests/test_status.py tests/test_stop.py tests/test_stream.py \
        tests/test_validate.py tests/test_watch.py tests/test_web.py

# Chaos on real engines, the long form: `just chaos --kills 50 --seed 7`; without a seed, one at random
chaos *ARGS:
    @exec python -m tests.chaos "$@"

# Configurations posted at random while ticks flow, the long form: `just reload --posts 300 --seed 7`
reload *ARGS:
    @exec python -m tests.reload "$@"

# What all of it costs, measured: `just bench` (minutes), `just bench idle`, `just bench sustained --json FILE`
bench *ARGS:
    @exec python -m tests.bench "$@"

# Two files of `just bench --json`, as ratios
bench-compare A B:
    @exec python -m tests.bench.compare "$@"

# Beside what others would use: the official client, cryptofeed's backends, plain asyncio; `--rounds 1` is quicker
bench-peers *ARGS:
    @exec python -m tests.bench.peers "$@"

# A flood on the status server while ticks pass, and the same without: [seconds], ratios within one run
bench-flood *ARGS:
    @exec python -m tests.bench.flood "$@"

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
        --extra embedded --extra fast --extra dev --custom-compile-command "ops/just pins" \
        --output-file ops/requirements.txt pyproject.toml
    echo "ops/requirements-run.txt" >&2
    "$scratch/bin/uv" pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 \
        --extra fast --constraint ops/requirements.txt --no-annotate --custom-compile-command "ops/just pins" \
        --output-file ops/requirements-run.txt pyproject.toml

# Remove what can be made again; .venv stays
clean:
    rm -rf .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist
    find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
