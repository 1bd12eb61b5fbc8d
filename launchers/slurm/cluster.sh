# What differs between clusters, for every script in this folder: edit it, or give a copy of your own
# by CLUSTER=FILE. Sourced by submit.sh on the login node and by each job.

# -- Slurm: what submit.sh asks for. Empty: the cluster's default.
PARTITION=${PARTITION:-}
CPU_PARTITION=${CPU_PARTITION:-$PARTITION} # for stages that need no GPU
ACCOUNT=${ACCOUNT:-}
QOS=${QOS:-}
CONSTRAINT=${CONSTRAINT:-}                 # e.g. h100
TIME=${TIME:-24:00:00}                     # a job that runs out of it is requeued and resumes
CPU_TIME=${CPU_TIME:-04:00:00}
WARN=${WARN:-900}                          # seconds before that at which it writes a checkpoint
GPU_FLAG=${GPU_FLAG:---gpus-per-node}      # or --gres=gpu: where that is not known
CPUS_PER_GPU=${CPUS_PER_GPU-8}             # these four empty: the cluster's default
GPU_MEM=${GPU_MEM-0}                       # of a node, with GPUs; 0: all of it
CPU_CPUS=${CPU_CPUS-16}                    # of a node without: extrapolation reads with all of them
CPU_MEM=${CPU_MEM-64G}
EVALUATE_JOBS=${EVALUATE_JOBS:-}           # nodes that problems are dealt over; empty: as training
EXCLUSIVE=${EXCLUSIVE:-1}                  # 1: whole nodes for GPU jobs

# -- Software: one of these, or neither where PYTHON is all there is.
# module purge && module load cuda/12.8
CONTAINER=${CONTAINER:-}                   # image for pyxis: each step runs in it
MOUNTS=${MOUNTS:-}                         # its mounts, e.g. /data:/data

# -- Hugging Face: compute nodes often have no network. Fetch first, on the login node, with
# `hf download`.
export HF_HOME=${HF_HOME:-$HOME/.cache/huggingface}
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1}           # 1: nothing is asked of the hub
export HF_DATASETS_OFFLINE=${HF_DATASETS_OFFLINE:-1} # the same for data sets
# W&B: tracking=offline is the default; `wandb sync` on the login node uploads it later.

# -- NCCL. Its defaults are right for one node and for most InfiniBand clusters.
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}                # INFO: says which network it found
export TORCH_NCCL_ASYNC_ERROR_HANDLING=1             # a lost rank ends the others, instead of a hang
# export NCCL_SOCKET_IFNAME=ib0                      # how ranks find each other, if it chooses wrongly
# export NCCL_IB_HCA=mlx5                            # which adapters carry data
# export NCCL_IB_TIMEOUT=22                          # patience on large or busy fabrics
# export GLOO_SOCKET_IFNAME=ib0                      # the same for what runs on the CPU
