#!/usr/bin/env bash
# Set up, then run every test; the arguments go to pytest.
#
#   bash scripts/test.sh
#   bash scripts/test.sh -m "not slow" tests/ops
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="$(bash scripts/setup.sh train test)"
exec "$python" -m pytest "$@"
