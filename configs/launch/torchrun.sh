#!/usr/bin/env bash
# One training on one or several machines, started by torchrun. From the repository's folder:
#
#   configs/launch/torchrun.sh ade20k/eomt_large_512 --with trainer/gpu
#   NODES=4 HEAD=node0:29500 configs/launch/torchrun.sh ade20k/eomt_large_512 --with trainer/gpu --with trainer/fsdp
#
# the second one on each of the four machines. They share this folder, because the first process alone writes runs/, and all
# see the data at one place. `data.batch_size` stays the total over all of them.
#
#   NODES      machines (1)                    PROCESSES  a machine: a number, or gpu for one a GPU (gpu)
#   HEAD       host:port of one of them, free  ADDRESS    of this machine, where its name does not lead to it
#   PYTHON     (.venv/bin/python)
#
# To go on with a run: --ckpt_path runs/<experiment>/<time>/checkpoints/last.ckpt behind the experiment. Lightning itself takes
# NCCL for GPUs and gloo for CPUs.
set -euo pipefail

experiment=${1:?name an experiment: configs/launch/torchrun.sh EXPERIMENT [OPTIONS OF fit]}
shift
nodes=${NODES:-1}
processes=${PROCESSES:-gpu}
devices=$processes
[[ $processes == gpu ]] && devices=auto

place=(--standalone)
if ((nodes > 1)); then
    place=(--nnodes="$nodes" --rdzv_backend=c10d --rdzv_endpoint="${HEAD:?host:port of the first machine}" --rdzv_id=trimask)
fi
[[ -n ${ADDRESS:-} ]] && place+=(--local_addr="$ADDRESS")

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # torchrun's own default, without its warning
exec "${PYTHON:-.venv/bin/python}" -m torch.distributed.run "${place[@]}" --nproc_per_node="$processes" \
    -m trimask fit --exp "$experiment" "$@" --trainer.num_nodes="$nodes" --trainer.devices="$devices"
