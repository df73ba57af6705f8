#!/usr/bin/env bash
# Train on the nodes of a SLURM job: one launcher per node, one process per GPU.
#
#   sbatch --nodes 2 --ntasks-per-node 1 --gpus-per-node 8 scripts/train/slurm.sh CONFIG [flags...]
#   sbatch --nodes 2 --ntasks-per-node 1 --gpus-per-node 8 --cpus-per-task 64 scripts/train/slurm.sh \
#     configs/train/finetune_v1_5_13b.yaml --output_dir checkpoints/llava-v1.5-13b
#
# What finetune_lora.sh and the like lay over CONFIG is a flag here: --config configs/train/overlays/lora.yaml.
# Submit from the root of the repository, which all nodes see at the same path with its environment (.venv). A job that was
# stopped goes on from its last checkpoint when it is submitted again.
#
# SIGTERM makes a run save and leave. SLURM sends it 10 minutes before the job's time is up (sbatch --signal=TERM@SECONDS
# says otherwise); when it takes a job back earlier, the cluster's KillWait or GraceTime counts.
#
# Read from the environment:
#   NUM_PROCESSES     processes per node (default: its GPUs)
#   MASTER_PORT       port of the first node the others meet on (default: 29500)
#   TORCH_ELASTIC_SHUTDOWN_TIMEOUT  seconds torchrun waits for the training to save after SIGTERM (default here: 600)

#SBATCH --signal=TERM@600
source "${SLURM_SUBMIT_DIR:-$(dirname "${BASH_SOURCE[0]}")/../..}/scripts/lib.sh"  # SLURM runs a copy of this file

case "${1:-}" in "" | -h | --help) usage && exit 0 ;; esac
config="$1"
shift
[[ -f "$config" ]] || fail "no such config: $config" "take one of: $(echo configs/train/*.yaml)"
[[ -n "${SLURM_JOB_NODELIST:-}" ]] || fail "no SLURM job around this script" "submit it: sbatch --nodes 2 ... scripts/train/slurm.sh"
if [[ -x "$PYTHON" ]]; then export PATH="$VENV/bin:$PATH"; else PYTHON="$(command -v python3)"; fi

export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}" # torchrun alone: 30
read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
exec srun --ntasks-per-node 1 "$PYTHON" -m torch.distributed.run --nnodes "$SLURM_JOB_NUM_NODES" \
  --nproc_per_node "${NUM_PROCESSES:-gpu}" --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d \
  --rdzv_endpoint "$first:${MASTER_PORT:-29500}" -m llava.train.train --config "$config" "$@"
