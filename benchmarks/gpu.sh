#!/usr/bin/env bash
# What is to be run when a GPU is at hand: every command that runs a model, on the yardstick and on models of random
# weights in the shapes of 1.5B and 7B, its time and peak memory beside plain Hugging Face; one table, 12 minutes.
#
#     bash benchmarks/gpu.sh                 # on a GPU; goes on where it stopped
#     bash benchmarks/gpu.sh --dry-run       # the same at toy size on a CPU, in seconds: what the tests run
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
