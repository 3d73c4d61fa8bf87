#!/usr/bin/env bash
# A pretrained checkpoint learns TOFU by heart, forgets a tenth of it, and leaves as a checkpoint.
# usage: run.sh CHECKPOINT DATA_DIR OUT; `--resume` makes it safe to repeat.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
checkpoint=$1 data=$2 out=$3
ofmu() { python -m ofmu_jax "$@"; }

ofmu train --config "$here/train.yaml" --model "$checkpoint" --data-dir "$data" \
  --out "$out/memorised" --resume
ofmu unlearn --config "$here/unlearn.yaml" --model "$out/memorised" --data-dir "$data" \
  --out "$out/ofmu" --resume
for run in memorised ofmu; do
  ofmu evaluate tofu --model "$out/$run" --data-dir "$data" --out "$out/${run}_eval" --resume
done
python -m experiments.tinystories_tofu.memorised "$data" "$out"
[ -e "$out/ofmu_hf" ] || ofmu export --model "$out/ofmu" --out "$out/ofmu_hf"
