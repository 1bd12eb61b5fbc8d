# Sourced by submit.sh and job.sh: what both have to know of times, and of the interpreter.

# seconds TIME: of one of Slurm's forms (minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S); without a limit a
# very long time.
seconds() {
  local days=0 rest=$1 a b c
  case $rest in
    *-*) days=${rest%%-*} rest=${rest#*-} ;;
    [0-9]*) ;;
    *) echo 999999999; return ;; # UNLIMITED, INFINITE, INVALID
  esac
  IFS=: read -r a b c <<<"$rest"
  if [[ $1 == *-* ]]; then # hours first
    echo $((10#$days * 86400 + 10#${a:-0} * 3600 + 10#${b:-0} * 60 + 10#${c:-0}))
  elif [ -n "$c" ]; then
    echo $((10#$a * 3600 + 10#$b * 60 + 10#$c))
  elif [ -n "$b" ]; then
    echo $((10#$a * 60 + 10#$b))
  else
    echo $((10#$a * 60))
  fi
}

# The Python of the pipeline: that of the repository's environment, else of the present one.
interpreter() {
  if [ -x "${PIPELINE_ROOT:-.}/.venv/bin/python" ]; then echo "${PIPELINE_ROOT:-.}/.venv/bin/python"; else echo python; fi
}
