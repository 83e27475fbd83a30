# What the jobs share; sourced by .ci/run, .ci/nightly and each job, from the root of the sources.
set -euo pipefail
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
export MPLBACKEND=Agg MPLCONFIGDIR="$work/matplotlib" PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
# Set by a developer's shell, they would change what is tested.
unset FASTCORR_ISA OMP_NUM_THREADS PYTHONPATH

step() { printf '\n==== %s (%d s)\n' "$*" "$SECONDS"; }

enter() {  # a new virtual environment, for the rest of the shell
  "$python" -m venv "$work/$1"
  export PATH="$work/$1/bin:$PATH" VIRTUAL_ENV="$work/$1"
}

ours() {  # [EXTRAS]: what to install of fastcorr, the wheel that .ci/run has built or else the sources
  if [[ ${FASTCORR_WHEEL-} ]]; then echo "fastcorr${1-} @ file://$FASTCORR_WHEEL"; else echo ".${1-}"; fi
}

debian() {  # Debian's packages, where one of these is missing
  dpkg -s "$@" >/dev/null 2>&1 && return
  step "from Debian: $*"
  apt-get update -qq
  apt-get install -y -qq "$@" >/dev/null
}

caught() {  # a fault planted on purpose: the command must fail, and say so with these words
  local words=$1 said; shift
  if said=$("$@" 2>&1); then echo "not found: the fault planted for: $*"; exit 1; fi
  grep -qE "$words" <<<"$said" || { echo "$said"; echo "failed without \"$words\": $*"; exit 1; }
  echo "planted fault found: $words"
}

apt_of() {  # SOURCE ARCHITECTURE arguments …: apt-get of another release or architecture, beside this machine's
  local to=$work/apt-$2; mkdir -p "$to"/{lists,cache/archives}/partial; touch "$to/status"
  echo "$1" >"$to/sources.list"
  apt-get -qq -o Dir::Etc::SourceList="$to/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::State::Lists="$to/lists" -o Dir::State::status="$to/status" -o Dir::Cache="$to/cache" \
    -o APT::Architecture="$2" -o APT::Architectures="$2" -o APT::Sandbox::User=root "${@:3}"
}
archive='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian'
# For pytest-run-parallel: tests that start processes, count all of Python's memory, set how threads
# take turns or catch signals run by themselves.
by_themselves=$(printf '%s\n' thread_unsafe_functions=subprocess.run tracemalloc.start \
  sys.setswitchinterval signal.signal signal.setitimer)
kernel_tests=$(printf 'tests/test_%s.py ' correlate2d gradients conv2d conv2d_options winograd fft separable plans)

sets_here() {  # the instruction sets of the installed build that this processor has, oldest first
  python -c '
from fastcorr._dispatch import _NEEDS
from fastcorr._kernels._cpu import ISAS, LEVEL
print(*(isa for isa in ISAS if _NEEDS.get(isa, 0) <= LEVEL))'
}

turn() {  # BUILD MODULE: a fault planted in the C of a module: complex numbers turn without a sign
  sed -i 's/vswap(v) \* (fc_vec){-1, 1, -1, 1}/vswap(v) * (fc_vec){1, 1, 1, 1}/' \
    "$1/fastcorr/_kernels/$2".*.p/*.c
}
