#!/usr/bin/env bash
# Set up, then run every test; where there is no NPU, those of the NPU path on host CANN. Arguments go to pytest, and
# then only the tests of this environment run.
#
#   bash scripts/test.sh
#   bash scripts/test.sh -m "not slow" tests/ops
#   bash scripts/hostcann.sh python -m pytest tests/npu tests/ops      # the same on host CANN
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="$(bash scripts/setup.sh train test deepspeed)"
if [[ $# -gt 0 ]]; then exec "$python" -m pytest "$@"; fi

"$python" -m pytest
# The adaptor's with the oldest megatron-core it works with; above they ran with the newest.
bash scripts/megatron_core.sh 0.12.0 python -m pytest tests/megatron_adaptor
# With a torch_npu of its own the environment has just run them on its cards.
if ! "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch_npu") is None)'; then
  bash scripts/hostcann.sh python -m pytest tests/npu tests/ops tests/integrations/megatron
fi
