#!/bin/sh
# OFMU on machines that nothing manages: run this on each of them, alike but for its number.
#   COORDINATOR=first-host:12345 PROCESSES=4 INDEX=0 STORAGE=/mnt/shared experiments/launch/by_hand.sh
set -eu
export JAX_COORDINATOR_ADDRESS="${COORDINATOR:?}"
export OFMU_NUM_PROCESSES="${PROCESSES:?}" OFMU_PROCESS_ID="${INDEX:?}"

ofmu unlearn tofu --distributed --mesh.fsdp -1 \
  --model "${STORAGE:?}/llama-2-7b-tofu" --data-dir "$STORAGE/tofu" --method ofmu_plus \
  --dtype bfloat16 --remat full --batch-size 32 --resume --out "$STORAGE/runs/ofmu_plus"
