# Helpers of the other scripts; read by them, not run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
model_name=SmolLM2-135M-Instruct.Q4_1.gguf
export gemma_name=gemma-3-270m-q4_k_m.gguf
export qwen_name=qwen2.5-coder-0.5b-instruct-q4_k_m.gguf
model_dir=${BLOCKATTN_MODEL_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/blockattn/models}
export model_path=$model_dir/$model_name

# What a program that uses the library needs, the command included.
export build_packages=(g++ cmake ninja-build libeigen3-dev libtbb-dev libxsimd-dev libpcre2-dev libutf8proc-dev libxxhash-dev libcli11-dev nlohmann-json3-dev libsqlite3-dev liblmdb-dev libhiredis-dev zlib1g-dev)
# What the tests need beside it.
export test_packages=(git libtree-sitter-dev ccache catch2 libbenchmark-dev clang libclang-rt-14-dev shellcheck redis-server)

# say TEXT: a headline. On standard error, like everything but a script's result.
say() { printf '\n== %s\n' "$*" >&2; }

# die TEXT: says what is wrong and what to do, and ends the script.
die() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

# as_root COMMAND...: runs it as root, through sudo where that is needed.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "needs root to run '$*', and there is no sudo. Run that command as root, then this script again."
  fi
}

# install_packages NAME...: those Debian packages, if any is missing. Needs neither root nor network when all are there.
install_packages() {
  local package missing=()
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || die "needs these Debian packages, and there is no apt-get: ${missing[*]}. Install what they hold in your system's way."
  say "Installing ${missing[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
}

# build PRESET TARGET...: configures it and builds the targets (all, if none is named), showing progress.
build() {
  local preset=$1
  shift
  say "Building: $preset${*:+ ($*)}"
  (cd "$root" && cmake --preset "$preset" >&2 && cmake --build --preset "$preset" ${@:+--target "$@"} >&2)
}
