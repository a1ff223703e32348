#!/usr/bin/env bash
# Measures everything that needs a GPU in one call of at most nine minutes, without a network; see gpu.py.
#
#     benchmarks/gpu.sh [--device cuda] [--output output/gpu] [--quick]
#     benchmarks/gpu.sh --collect     on a machine with a network: downloads the wheels into the ignored folder .whl/
#
# If detectron2 is missing, the wheels are installed into .whl/site. PYTHON names the interpreter, Python 3.11 or later.
# It needs torch, torchvision, numpy, scipy, opencv, pillow, matplotlib, tensorboard and pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ "${1:-}" = --collect ]; then
    mkdir -p .whl
    "$python" -m pip wheel -q --no-deps -w .whl fvcore iopath yacs termcolor tabulate tqdm filelock cloudpickle \
        portalocker 'hydra-core>=1.3,<1.4' 'omegaconf>=2.3,<2.4' antlr4-python3-runtime==4.9.3 'setuptools<81' pyyaml \
        pycocotools
    "$python" -m pip download -q --no-deps --require-hashes --only-binary=:all: --python-version 3.10 -d .whl \
        -r requirements-detectron2.txt
    exit
fi
if ! "$python" -c 'import detectron2' 2>/dev/null && [ ! -d .whl/site/detectron2 ]; then
    ls .whl/sal_detectron2-*.whl >/dev/null 2>&1 || {
        echo "detectron2 is not installed, and .whl/ has no wheels: collect them on a machine with a network" >&2
        exit 2
    }
    mapfile -t wheels < <(ls .whl/*.whl | grep -v sal_detectron2)
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target .whl/site "${wheels[@]}"
    # Its name says Python 3.10, but it contains no compiled code.
    "$python" -m zipfile -e .whl/sal_detectron2-*.whl .whl/site
fi
export PYTHONPATH=".whl/site:$PWD:$PWD/tests/helpers${PYTHONPATH:+:$PYTHONPATH}"
exec timeout 540 "$python" -W ignore benchmarks/gpu.py "$@"
