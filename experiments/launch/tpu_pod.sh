#!/bin/sh
# OFMU on every host of a Cloud TPU slice. Model, data and output lie on storage that all hosts see.
#   TPU_NAME=... ZONE=... REPOSITORY=... STORAGE=/mnt/shared experiments/launch/tpu_pod.sh
# REPOSITORY is where pip finds this package, for instance git+ssh://... or a wheel on STORAGE.
set -eu
: "${TPU_NAME:?}" "${ZONE:?}" "${REPOSITORY:?}" "${STORAGE:?}"

everywhere() {
  gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone "$ZONE" --worker=all --command "$1"
}

everywhere "pip install --quiet 'ofmu-jax[tpu] @ $REPOSITORY'"
# --resume goes on after a preemption, of which SIGTERM warns: the run saves and ends with 143.
everywhere "ofmu unlearn tofu --distributed --mesh.fsdp -1 \
  --model $STORAGE/llama-2-7b-tofu --data-dir $STORAGE/tofu --method ofmu_plus \
  --dtype bfloat16 --remat full --batch-size 32 --resume --out $STORAGE/runs/ofmu_plus"
