#!/bin/sh
# Create or repair the environment in .venv/ : `infra/install.sh run` for the program, `infra/install.sh test` to add the test packages.
# Does nothing if .venv/.installed (or .installed-test) shows that the current pyproject.toml and requirements.lock are installed;
# completes an interrupted installation. On failure it prints one line and exits with status 1.
# PYTHON=...       interpreter to use (3.11 or 3.12); default: the first of python3, python3.12, python3.11 that fits
# TORCH_INDEX=...  index URL for torch, from PyTorch's install page (the CPU build is the small one)
# NEED_GB=...      overrides the estimate of the disk space needed
set -eu
cd "$(dirname "$0")/.."

what=${1:-run}
venv=.venv
case $what in
  run) target=. stamp=$venv/.installed ;;
  test) target='.[dev]' stamp=$venv/.installed-test ;;
  *) echo "install.sh: found '$what', expected 'run' or 'test'" >&2; exit 1 ;;
esac

fail() { echo "gpt1: $*" >&2; exit 1; }
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
fits() { case $(version_of "$1") in 3.11|3.12) return 0 ;; *) return 1 ;; esac; }
has_venv() { "$1" -c 'import venv, ensurepip' 2>/dev/null; }

# The stamp: the files that decide what is installed, the folder (scripts in bin/ contain it), and the interpreter.
digest() { { cat pyproject.toml requirements.lock; pwd -P; version_of "$venv/bin/python"; } | cksum; }

choose_python() {
  if [ -n "${PYTHON:-}" ]; then
    fits "$PYTHON" || fail "PYTHON=$PYTHON is $(version_of "$PYTHON" || echo 'no Python'), expected Python 3.11 or 3.12; set PYTHON to another"
    has_venv "$PYTHON" || fail "$PYTHON has no venv module; on Debian and Ubuntu, apt install python$(version_of "$PYTHON")-venv"
    echo "$PYTHON"
    return
  fi
  bare=
  for candidate in python3 python3.12 python3.11; do
    fits "$candidate" || continue
    if has_venv "$candidate"; then echo "$candidate"; return; fi
    bare=${bare:-$candidate}
  done
  [ -z "$bare" ] || fail "$bare has no venv module; on Debian and Ubuntu, apt install python$(version_of "$bare")-venv"
  fail "found python3 = $(version_of python3 || echo none), expected Python 3.11 or 3.12; install one, or set PYTHON=/path/to/python3.12"
}

as_asked() { [ -z "${PYTHON:-}" ] || [ "$(version_of "$PYTHON")" = "$(version_of "$venv/bin/python")" ]; }

# Whether .venv can be reused: it works, was not moved (its scripts contain its path), and no installation in it was killed.
usable() {
  fits "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1 || return 1
  [ ! -e "$venv/.installing" ] && [ "$(cat "$venv/.place" 2>/dev/null || pwd -P)" = "$(pwd -P)" ] && as_asked
}

free_gb() { df -Pk . | awk 'NR == 2 { printf "%d", $4 / 1048576 }'; }
require_room() { # $1: GB, $2: for what
  [ "$(free_gb)" -ge "$1" ] || fail "not enough disk space: $(free_gb) GB free in $(pwd), expected about $1 GB ($2); free up space, or set NEED_GB"
}

# cpu or cuda: the build of torch that pip would install (cpu, the smaller one, if pip cannot tell).
torch_build() {
  [ "$(uname -s)" = Linux ] || { echo cpu; return; }
  pin=$(sed -n 's/^torch==//p' requirements.lock)
  found=$("$venv/bin/python" -m pip index versions torch ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} 2>/dev/null) || found=
  case $found in *"$pin+cpu"* | "") echo cpu ;; *) echo cuda ;; esac
}

# One installation at a time, if flock is available: two `make` in one clone wait for each other.
if command -v flock >/dev/null 2>&1; then exec 9<pyproject.toml; flock 9; fi

if [ "$(cat "$stamp" 2>/dev/null)" = "$(digest)" ] && as_asked; then exit 0; fi

if ! usable; then
  python=$(choose_python)
  require_room "${NEED_GB:-4}" "CPU build of torch"
  echo "gpt1: creating $venv/ with $python ($(version_of "$python"))"
  rm -rf "$venv"
  "$python" -m venv "$venv" || fail "$python could not create $venv/ ; see the lines above"
fi
pwd -P > "$venv/.place"
rm -f "$stamp"
[ -t 1 ] && quiet= || quiet=-qq
pip_install() { # removes its mark when pip exits; a leftover mark means that the installation was killed
  touch "$venv/.installing"
  "$venv/bin/python" -m pip install $quiet --disable-pip-version-check -c requirements.lock "$@" && ended=0 || ended=$?
  rm -f "$venv/.installing"
  return "$ended"
}

torch_there=$("$venv/bin/python" -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null || true)
if [ -z "$torch_there" ]; then
  build=$(torch_build)
  if [ "$build" = cuda ]; then require_room "${NEED_GB:-10}" "CUDA build of torch"; else require_room "${NEED_GB:-4}" "CPU build of torch"; fi
  if [ "$build" = cuda ] && ! command -v nvidia-smi >/dev/null 2>&1; then
    echo "gpt1: found no NVIDIA driver, but pip will install the CUDA build of torch (2.7 GB to download). For the small CPU build,"
    echo "gpt1: stop now and set TORCH_INDEX to the CPU index URL on PyTorch's install page."
  fi
  if [ -n "${TORCH_INDEX:-}" ]; then
    pip_install --no-deps --index-url "$TORCH_INDEX" torch ||
      fail "could not install torch from TORCH_INDEX=$TORCH_INDEX; see pip's output above"
  fi
fi

echo "gpt1: installing into $venv/ (takes a few minutes, only once)"
pip_install -e "$target" ||
  fail "pip could not install the packages; see its output above (network? disk: $(free_gb) GB free), then run the same command to resume"
digest > "$stamp"
[ "$what" = run ] || digest > "$venv/.installed" # the test packages include the program's
echo "gpt1: $venv/ is ready"
