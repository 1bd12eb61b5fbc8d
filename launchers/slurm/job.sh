# Sourced by the batch scripts: the environment of a job, and how it stops and comes back.
#
# `stages ARGS...` runs the pipeline, after `everywhere` in every task of the job. Slurm sends USR1
# before the time is up (--signal=B:USR1@900, to this shell only); it is passed on, training writes a
# checkpoint and the pipeline ends with 75. Then the job is requeued, and the same command resumes. On
# pre-emption Slurm requeues by itself. The exit code is the pipeline's, so jobs that depend on this
# one start only if it succeeded.
fail() { echo "error: $*" >&2; exit 1; }

cd "${SLURM_SUBMIT_DIR:-.}"
root=${PIPELINE_ROOT:-$PWD}
source "$root/launchers/slurm/times.sh"
source "${CLUSTER:-$root/launchers/slurm/cluster.sh}"
PYTHON=${PYTHON:-$(interpreter)}
export PYTHONUNBUFFERED=1
# srun asks for one core a task where it is not told what the job has.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
# A task of an array by both numbers: its first one may be that of the whole array.
job=$SLURM_JOB_ID
[ -z "${SLURM_ARRAY_JOB_ID:-}" ] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
# Where this job's output goes, so that pipeline.status can name it.
PIPELINE_LOG=$(scontrol show job "$job" | sed -n 's/^ *StdErr=//p')
export PIPELINE_LOG
# Two jobs on one node must not meet on one port.
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
echo "job $job on ${SLURM_JOB_NODELIST:-?}, restart ${SLURM_RESTART_COUNT:-0}, GPUs ${CUDA_VISIBLE_DEVICES:-none}"

# The command's words before the interpreter: a container, if there is one.
container=()
if [ -n "${CONTAINER:-}" ]; then
  container=("--container-image=$CONTAINER" "--container-mounts=$root:$root,$PWD:$PWD${MOUNTS:+,$MOUNTS}" "--container-workdir=$PWD")
fi
inside=()
[ "${#container[@]}" = 0 ] || inside=(srun --ntasks=1 --overlap "${container[@]}")

# everywhere: from here on `stages` starts the pipeline in each task of the job.
everywhere() {
  inside=(srun --kill-on-bad-exit=1 "${container[@]}")
}

# hurried: whether the warning came at once, since the job's time is hardly longer than the warning
# comes before its end: such a job would be requeued for ever.
hurried() {
  [ "$SECONDS" -lt 60 ] && [ "$(seconds "$(squeue -h -j "$job" -o %L)")" -lt 3600 ]
}

# pass SIGNAL: on to the pipeline, if it has started.
pass() {
  last=$1 signals=$((signals + 1))
  [ -z "$child" ] || kill "-$1" "$child" 2>/dev/null || true # it has ended meanwhile
}

stages() {
  local code before=-1
  asked=0 signals=0 child='' last=
  trap 'asked=1; pass USR1' USR1
  trap 'pass TERM' TERM
  "${inside[@]}" "$@" &
  child=$!
  [ -z "$last" ] || pass "$last" # it came before there was anybody to hear it
  while [ "$before" != "$signals" ]; do # a signal interrupts the waiting, whose code is then its own
    before=$signals code=0
    wait "$child" || code=$?
  done
  trap - USR1 TERM
  [ "$code" != 138 ] || [ "$asked" = 0 ] || code=75 # USR1 came before it listened: nothing is lost
  if [ "$code" = 75 ] && [ "$asked" = 1 ]; then
    ! hurried || fail "job $job: not requeued, as it was warned of its end at once; give it more --time, or a warning that comes later (--signal=B:USR1@SECONDS; WARN of submit.sh)"
    echo "job $job: the time is up; requeued, to resume"
    scontrol requeue "$job"
    sleep 60 # Slurm ends this script
  fi
  return "$code"
}
