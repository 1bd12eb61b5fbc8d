#!/usr/bin/env bash
# A whole run as Slurm jobs that depend on each other, from the login node in one command.
#
#   launchers/slurm/submit.sh +experiment=qwen_math run.dir=outputs/qwen_math/first
#   launchers/slurm/submit.sh --dry-run +experiment=qwen_math compute=four_nodes_8_gpus \
#       run.dir=outputs/qwen_math/first
#
# The configuration is checked first; then training goes to as many nodes and GPUs as compute=...
# says, what needs an engine to a node with GPUs, and the rest to nodes without. A job starts when the
# one before it has succeeded; if it failed, those behind it are cancelled, and
# `python -m pipeline.status RUN` says why. Jobs that run out of time, or are pre-empted, come back and
# resume. --dry-run submits nothing and prints what would be. Cluster settings: cluster.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
source "${CLUSTER:-launchers/slurm/cluster.sh}"

die() { echo "error: $*" >&2; exit 1; }

dry=0
arguments=()
run_dir=
for argument in "$@"; do
  case $argument in
    --dry-run) dry=1 ;;
    stages=* | +stages=*) die "$argument: submit.sh sends every stage of the experiment to the job it needs; for some of them use sbatch with pipeline.sbatch" ;;
    run.dir=*) run_dir=${argument#run.dir=}; arguments+=("$argument") ;;
    -*) die "$argument: no such option; usage: submit.sh [--dry-run] +experiment=NAME run.dir=DIR ..." ;;
    *) arguments+=("$argument") ;;
  esac
done
[ -n "$run_dir" ] || die "run.dir: missing; the jobs must be told where to meet, e.g. run.dir=outputs/NAME/first"
[ "$dry" = 1 ] || command -v sbatch >/dev/null || die "sbatch: not found; start this on a login node, or give --dry-run"

if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
# Finds mistakes now, and says which stages there are; as its words are ours to read, so are its errors.
plan=$("$PYTHON" -m pipeline "${arguments[@]}" dry_run=true)
compute=$("$PYTHON" -m pipeline "${arguments[@]}" --cfg job --package compute)
value() { sed -n "s/^$1: //p" <<<"$compute"; }
nodes=$(value nodes) processes=$(value processes) launcher=$(value launcher)
[ "$nodes" = 1 ] || [ "$launcher" = srun ] || die "compute.nodes=$nodes: several nodes of a Slurm job need compute.launcher=srun"

# has STAGE...: those of them that this run has, separated by commas.
has() {
  local found=()
  for stage in "$@"; do
    grep -q "^  $stage " <<<"$plan" && found+=("$stage")
  done
  (IFS=,; echo "${found[*]}")
}

previous= number=0
# submit SCRIPT STAGES NODES GPUS CPUS MEM TIME PARTITION: one job after the last one.
submit() {
  local script=$1 stages=$2 count=$3 gpus=$4 cpus=$5 mem=$6 time=$7 partition=$8
  [ -n "$stages" ] || return 0
  local line=(sbatch --parsable "--nodes=$count" "--cpus-per-task=$cpus" "--mem=$mem" "--time=$time")
  line+=("--signal=B:USR1@$WARN" "--job-name=rl-${stages%%,*}")
  [ "$gpus" = 0 ] || line+=("${GPU_FLAG}$([[ $GPU_FLAG == *: ]] || echo =)$gpus")
  [ "$gpus" = 0 ] || [ "$EXCLUSIVE" != 1 ] || line+=(--exclusive)
  [ -z "$partition" ] || line+=("--partition=$partition")
  [ -z "$ACCOUNT" ] || line+=("--account=$ACCOUNT")
  [ -z "$QOS" ] || line+=("--qos=$QOS")
  [ "$gpus" = 0 ] || [ -z "$CONSTRAINT" ] || line+=("--constraint=$CONSTRAINT")
  # a job that cannot start any more goes, instead of waiting for ever
  [ -z "$previous" ] || line+=("--dependency=afterok:$previous" --kill-on-invalid-dep=yes)
  line+=(--export=ALL "launchers/slurm/$script" "${arguments[@]}")
  number=$((number + 1))
  local job=JOB$number
  if [ "$dry" = 1 ]; then
    printf 'STAGES=%s' "$stages"
    printf ' %q' "${line[@]}"
    printf '\n'
  else
    job=$(STAGES=$stages "${line[@]}")
    job=${job%%;*}
    echo "job $job: $stages, $count node(s), $gpus GPU(s) each${previous:+, after job $previous}"
  fi
  previous=$job
  scripts+=("launchers/slurm/$script")
}

engine_gpus=$processes
[ "$launcher" != none ] || engine_gpus=1
[ "${NO_GPUS:-0}" = 1 ] && engine_gpus=0 # a cluster of CPUs, as in the tests
gpu_cpus=$((engine_gpus > 0 ? engine_gpus * CPUS_PER_GPU : CPU_CPUS))
scripts=()
submit train.sbatch "$(has sft_train rl_train)" "$nodes" "$engine_gpus" "$gpu_cpus" "$GPU_MEM" "$TIME" "$PARTITION"
submit pipeline.sbatch "$(has snapshot weight_extrap)" 1 0 "$CPU_CPUS" "$CPU_MEM" "$CPU_TIME" "$CPU_PARTITION"
submit evaluate.sbatch "$(has linear_probe logit_extrap evaluate)" 1 "$engine_gpus" "$gpu_cpus" "$GPU_MEM" "$TIME" "$PARTITION"
submit pipeline.sbatch "$(has report)" 1 0 1 4G "$CPU_TIME" "$CPU_PARTITION"
if [ "$dry" = 1 ]; then
  for script in $(printf '%s\n' "${scripts[@]}" | sort -u) launchers/slurm/job.sh; do
    printf '\n# ---- %s\n' "$script"
    cat "$script"
  done
  exit
fi
echo "python -m pipeline.status $run_dir --watch"
