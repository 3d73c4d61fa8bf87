#!/usr/bin/env bash
# TOFU forget10, from training to evaluation. usage: run.sh DATA_DIR OUT
# DATA_DIR holds TOFU's files under their Hugging Face names. `--resume` makes it safe to repeat.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=$1 out=$2
ofmu() { python -m ofmu_jax "$@" --data-dir "$data" --resume; }

ofmu train --config "$here/train.yaml" --out "$out/original"
ofmu train --config "$here/train.yaml" --split retain --out "$out/retrained"
ofmu evaluate tofu --model "$out/retrained" --out "$out/retrained_eval"
ofmu evaluate tofu --model "$out/original" --out "$out/original_eval" \
  --retain-results "$out/retrained_eval/TOFU_EVAL.json"
for method in ofmu npo grad_diff grad_ascent; do
  ofmu unlearn --config "$here/$method.yaml" --model "$out/original" --out "$out/$method"
  ofmu evaluate tofu --model "$out/$method" --out "$out/${method}_eval" \
    --retain-results "$out/retrained_eval/TOFU_EVAL.json"
done
