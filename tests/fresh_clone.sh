#!/usr/bin/env bash
# Runs the README's two commands as a new user does, on a machine that has a single Python.
#
#   tests/fresh_clone.sh PYTHON [VARIABLE=VALUE...]
#
# PYTHON is the path of an interpreter. HEAD is cloned into an empty folder and gets an empty home,
# with empty caches, and a PATH with that Python, make and the tools of a C library alone. Then
# `make run-local` runs twice and `make test` once, with the given variables of the Makefile. What
# the commands print goes to this terminal and to files; the last lines tell times and results. The
# exit code is 1 if a command failed or if the second call installed something.
#
# The environment keeps only settings of proxies, certificates and pip, so that the registries of
# the network at hand are found.
#
# FRESH_CLONE names the folder to use instead of a temporary one, which is removed in the end.
# FRESH_CLONE_COMMANDS names the commands, such as "run-local" or "run-local run-local test-quick".
set -euo pipefail

python=$(realpath "$1")
shift
repository=$(git -C "$(dirname "$0")" rev-parse --show-toplevel)
name=python$("$python" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')

if [ "${FRESH_CLONE:-}" ]; then
  folder=$FRESH_CLONE
  mkdir "$folder"
else
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
fi
mkdir "$folder/bin" "$folder/home" "$folder/tmp"

ln -s "$python" "$folder/bin/$name"
tools='awk basename bash cat chmod chown cmp cp cut date dash dd df diff dirname du echo egrep env
  expr false fgrep find getconf git grep gzip head hostname id install kill ldconfig ldd ln ls make
  mkdir mkfifo mktemp mv nice nproc od printf ps pwd readlink realpath rm rmdir sed seq sh sha256sum
  sleep sort stat stty tail tar tee test timeout touch tr true tty uname uniq wc which xargs'
for tool in $tools; do
  if path=$(PATH="$PATH:/sbin:/usr/sbin" type -P "$tool"); then
    ln -s "$path" "$folder/bin/$tool"
  fi
done

git clone --quiet "$repository" "$folder/captioner"
git -C "$folder/captioner" checkout --quiet "$(git -C "$repository" rev-parse HEAD)"

kept=()
while IFS= read -r -d '' setting; do
  case ${setting%%=*} in
    PIP_* | SSL_CERT_* | REQUESTS_CA_BUNDLE | *_proxy | *_PROXY) kept+=("$setting") ;;
  esac
done < <(env --null)

# Runs make in the clone and adds a line to the results.
results=()
failed=0
call=0
run() {
  local log code=0 started=$SECONDS
  call=$((call + 1))
  log=$folder/$call-$1.log
  (
    cd "$folder/captioner"
    exec env --ignore-environment "${kept[@]}" PATH="$folder/bin" HOME="$folder/home" \
      TMPDIR="$folder/tmp" LANG=C.UTF-8 make "$@"
  ) < /dev/null 2>&1 | tee "$log" || code=$?
  results+=("make $*: exit code $code, $((SECONDS - started)) s")
  if [ "$code" -ne 0 ]; then
    failed=1
  fi
}

installed=0
for command in ${FRESH_CLONE_COMMANDS:-run-local run-local test}; do
  before=$installed
  run "$command" "$@"
  installed=$(cat "$folder"/*.log | grep -c ': installing the packages' || true)
  if [ "$call" -eq 2 ] && [ "$command" = run-local ] && [ "$installed" -ne "$before" ]; then
    results+=("the second call installed something")
    failed=1
  fi
done

echo "fresh clone on $name ($("$python" -V)):"
printf '  %s\n' "${results[@]}"
"$folder/captioner/.venv/bin/python" -V
exit "$failed"
