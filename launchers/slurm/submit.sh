#!/usr/bin/env bash
# A whole run as Slurm jobs that depend on each other, from the login node in one command.
#
#   launchers/slurm/submit.sh +experiment=qwen_math run.dir=outputs/qwen_math/first
#   launchers/slurm/submit.sh --dry-run +experiment=qwen_math compute=four_nodes_8_gpus \
#       run.dir=outputs/qwen_math/first
#
# The configuration is checked first; then training goes to as many nodes and GPUs as compute=...
# says, what needs an engine to as many nodes with GPUs (an array of jobs, each with its part of the
# problems), and the rest to nodes without. A job starts when the one before it has succeeded; if it
# failed, those behind it are cancelled, and `python -m pipeline.status RUN` says why. Jobs that run
# out of time, or are pre-empted, come back and resume. --dry-run submits nothing and prints what
# would be. Relative paths are those of the folder that it is started in. Cluster settings: cluster.sh.
set -euo pipefail
root=$(cd "$(dirname "$(readlink -f "$0")")/../.." && pwd)
die() { echo "error: $*" >&2; exit 1; }

# The jobs find the scripts and the package by these, wherever this was started.
export PIPELINE_ROOT=$root PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
CLUSTER=$(realpath -m -- "${CLUSTER:-$root/launchers/slurm/cluster.sh}")
export CLUSTER
[ -f "$CLUSTER" ] || die "CLUSTER=$CLUSTER: no such file; give one like launchers/slurm/cluster.sh"
source "$CLUSTER"
source "$root/launchers/slurm/times.sh"

dry=0 run_dir=
arguments=()
for argument in "$@"; do
  case $argument in
    --dry-run) dry=1 ;;
    stages=* | +stages=* | ++stages=*) die "$argument: submit.sh sends every stage of the experiment to the job it needs; for some of them use sbatch with pipeline.sbatch" ;;
    dry_run=* | +dry_run=* | ++dry_run=*) die "$argument: the jobs would only plan; give --dry-run to see them" ;;
    run.part=* | +run.part=* | ++run.part=*) die "$argument: evaluate.sbatch gives each job its part; set EVALUATE_JOBS" ;;
    run.dir=* | ++run.dir=*) run_dir=$argument; arguments+=("$argument") ;;
    -*) die "$argument: no such option; usage: submit.sh [--dry-run] +experiment=NAME run.dir=DIR ..." ;;
    *) arguments+=("$argument") ;;
  esac
done
[ -n "$run_dir" ] || die "run.dir: missing; the jobs must be told where to meet, e.g. run.dir=outputs/NAME/first"
[ "$dry" = 1 ] || command -v sbatch >/dev/null || die "sbatch: not found; start this on a login node, or give --dry-run"
for given in TIME CPU_TIME; do
  [ -z "${!given}" ] || [ "$(seconds "${!given}")" -gt "$WARN" ] || die "$given=${!given}: not longer than WARN=$WARN seconds, at which a job stops to be requeued; raise it, or lower WARN"
done

PYTHON=${PYTHON:-$(interpreter)}
export PYTHON
# Finds mistakes now, and says which stages there are; as its words are ours to read, so are its errors.
plan=$("$PYTHON" -m pipeline "${arguments[@]}" dry_run=true)
run_dir=$(sed -n '1s/^dry run of [^/]* in \(\/.*\) (nothing is written)$/\1/p' <<<"$plan")
config=$("$PYTHON" -m pipeline "${arguments[@]}" --cfg job)
value() { sed -n "/^$1:/,/^[^ ]/s/^  $2: //p" <<<"$config"; } # SECTION KEY
nodes=$(value compute nodes) processes=$(value compute processes) launcher=$(value compute launcher)
[ "$nodes" = 1 ] || [ "$launcher" = srun ] || die "compute.nodes=$nodes: several nodes of a Slurm job need compute.launcher=srun"

# has STAGE...: those of them that this run has, separated by commas.
has() {
  local found=()
  for stage in "$@"; do
    grep -q "^  $stage " <<<"$plan" && found+=("$stage")
  done
  (IFS=,; echo "${found[*]}")
}

scripts=() jobs=()
mark="pipeline $run_dir" # of all jobs of a run
previous= number=0
# submit SCRIPT STAGES NODES GPUS CPUS MEM TIME PARTITION [TASKS]: one job after the last one, or an
# array of TASKS.
submit() {
  local script=$1 stages=$2 count=$3 gpus=$4 cpus=$5 mem=$6 time=$7 partition=$8 tasks=${9:-1}
  [ -n "$stages" ] || return 0
  local line=(sbatch --parsable "--nodes=$count" "--signal=B:USR1@$WARN" "--job-name=rl-${stages%%,*}" "--comment=$mark")
  [ -z "$cpus" ] || line+=("--cpus-per-task=$cpus")
  [ -z "$mem" ] || line+=("--mem=$mem")
  [ -z "$time" ] || line+=("--time=$time")
  [ "$tasks" = 1 ] || line+=("--array=0-$((tasks - 1))")
  [ "$gpus" = 0 ] || line+=("${GPU_FLAG}$([[ $GPU_FLAG == *: ]] || echo =)$gpus")
  [ "$gpus" = 0 ] || [ "$EXCLUSIVE" != 1 ] || line+=(--exclusive)
  [ -z "$partition" ] || line+=("--partition=$partition")
  [ -z "$ACCOUNT" ] || line+=("--account=$ACCOUNT")
  [ -z "$QOS" ] || line+=("--qos=$QOS")
  [ "$gpus" = 0 ] || [ -z "$CONSTRAINT" ] || line+=("--constraint=$CONSTRAINT")
  # a job that cannot start any more goes, instead of waiting for ever
  [ -z "$previous" ] || line+=("--dependency=afterok:$previous" --kill-on-invalid-dep=yes)
  line+=(--export=ALL "$root/launchers/slurm/$script" "${arguments[@]}")
  number=$((number + 1))
  local job=JOB$number
  if [ "$dry" = 1 ]; then
    printf 'STAGES=%s' "$stages"
    printf ' %q' "${line[@]}"
    printf '\n'
  else
    if ! job=$(STAGES=$stages "${line[@]}"); then # Slurm has said why
      [ "${#jobs[@]}" = 0 ] || scancel "${jobs[@]}"
      die "$stages: not submitted; ${#jobs[@]} jobs before it are cancelled. Correct $CLUSTER, or the value in the environment, and submit again"
    fi
    job=${job%%;*}
    jobs+=("$job")
    local many=
    [ "$tasks" = 1 ] || many="$tasks x "
    echo "job $job: $stages, $many$count node(s), $gpus GPU(s) each${previous:+, after job $previous}"
  fi
  previous=$job
  scripts+=("launchers/slurm/$script")
}

engine_gpus=$processes
[ "$launcher" != none ] || engine_gpus=1
replicas=$(value engine replicas) each=$(value engine tensor_parallel)
[ "$(value engine name)" = vllm ] || each=1
[ "$replicas" != null ] || replicas=1
train_gpus=$engine_gpus
[ $((replicas * each)) -le "$engine_gpus" ] || engine_gpus=$((replicas * each))
[ "${NO_GPUS:-0}" = 0 ] || { engine_gpus=0 train_gpus=0; } # a cluster of CPUs, as in the tests
cpus() { if [ "$1" = 0 ]; then echo "$CPU_CPUS"; elif [ -n "$CPUS_PER_GPU" ]; then echo $(($1 * CPUS_PER_GPU)); fi; }

if [ "$dry" = 0 ]; then
  mkdir -p "$run_dir" || die "run.dir: $run_dir cannot be made"
  exec 9>"$run_dir/.submit"
  flock -n 9 || die "$run_dir: submitted from elsewhere at this moment; look with squeue"
  queued=$(squeue -h --me -o '%A %k' | awk -v mark="$mark" '{ id = $1; sub(/^[^ ]+ /, "") } $0 == mark { print id }' | sort -un | paste -sd ' ' -)
  [ -z "$queued" ] || die "$run_dir: is in the queue already, as job(s) $queued; wait for them, or scancel $queued"
fi
submit train.sbatch "$(has sft_train rl_train)" "$nodes" "$train_gpus" "$(cpus "$train_gpus")" "$GPU_MEM" "$TIME" "$PARTITION"
submit pipeline.sbatch "$(has snapshot weight_extrap)" 1 0 "$CPU_CPUS" "$CPU_MEM" "$CPU_TIME" "$CPU_PARTITION"
submit evaluate.sbatch "$(has linear_probe logit_extrap evaluate)" 1 "$engine_gpus" "$(cpus "$engine_gpus")" "$GPU_MEM" "$TIME" "$PARTITION" "${EVALUATE_JOBS:-$nodes}"
submit pipeline.sbatch "$(has report)" 1 0 1 4G "$CPU_TIME" "$CPU_PARTITION"
if [ "$dry" = 1 ]; then
  for script in $(printf '%s\n' "${scripts[@]}" | sort -u) launchers/slurm/job.sh; do
    printf '\n# ---- %s\n' "$script"
    cat "$root/$script"
  done
  exit
fi
printf 'python -m pipeline.status %q --watch\n' "$run_dir"
