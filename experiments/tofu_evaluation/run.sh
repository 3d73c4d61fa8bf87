#!/usr/bin/env bash
# Every metric on TOFU forget10, of a model that knows it and of one that was never shown it.
# usage: run.sh CHECKPOINT DATA_DIR OUT; safe to repeat, since everything resumes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
checkpoint=$1 data=$2 out=$3
ofmu() { python -m ofmu_jax "$@"; }
evaluate() {
  ofmu evaluate tofu --data-dir "$data" --reference-model "$checkpoint" --resume "$@"
}

ofmu train --config "$here/train.yaml" --model "$checkpoint" --data-dir "$data" \
  --split full --out "$out/original" --resume
ofmu train --config "$here/train.yaml" --model "$checkpoint" --data-dir "$data" \
  --split retain --out "$out/retrained" --resume
evaluate --model "$out/retrained" --out "$out/retrained_eval"
evaluate --model "$out/original" --out "$out/original_eval" \
  --retain-results "$out/retrained_eval/TOFU_EVAL.json"
python -m experiments.tofu_evaluation.collect "$out"
