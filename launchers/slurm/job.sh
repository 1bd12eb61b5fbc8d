# Sourced by the batch scripts: the environment of a job, and how it stops and comes back.
#
# `stages ARGS...` runs the pipeline. Slurm sends USR1 before the time is up (--signal=B:USR1@900, to
# this shell only); it is passed on, training writes a checkpoint and the pipeline ends with 75. Then
# the job is requeued, and the same command resumes. On pre-emption Slurm requeues by itself. The exit
# code is the pipeline's, so jobs that depend on this one start only if it succeeded.
cd "${SLURM_SUBMIT_DIR:-.}"
source "${CLUSTER:-launchers/slurm/cluster.sh}"

if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
export PYTHONUNBUFFERED=1
# Where this job's output goes, so that pipeline.status can name it.
PIPELINE_LOG=$(scontrol show job "$SLURM_JOB_ID" | sed -n 's/^ *StdErr=//p')
export PIPELINE_LOG
# Two jobs on one node must not meet on one port.
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
echo "job $SLURM_JOB_ID on ${SLURM_JOB_NODELIST:-?}, restart ${SLURM_RESTART_COUNT:-0}, GPUs ${CUDA_VISIBLE_DEVICES:-none}"

# The command's words before the interpreter: a container, if there is one.
inside=()
if [ -n "${CONTAINER:-}" ]; then
  inside=(srun --ntasks=1 --overlap "--container-image=$CONTAINER" "--container-mounts=$PWD:$PWD${MOUNTS:+,$MOUNTS}" "--container-workdir=$PWD")
fi

stages() {
  local code=0
  asked=0
  "${inside[@]}" "$@" &
  child=$!
  trap 'asked=1; kill -USR1 "$child" 2>/dev/null' USR1
  trap 'kill -TERM "$child" 2>/dev/null' TERM
  while :; do
    code=0
    wait "$child" || code=$?
    kill -0 "$child" 2>/dev/null || break # else a signal has only interrupted the waiting
  done
  trap - USR1 TERM
  if [ "$code" = 75 ] && [ "$asked" = 1 ]; then
    echo "job $SLURM_JOB_ID: the time is up; requeued, to resume"
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60 # Slurm ends this script
  fi
  return "$code"
}
