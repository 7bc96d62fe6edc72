#!/bin/sh
# Creates a virtual environment and installs packages into it.
#
#   sh tools/install.sh VENV PYTHON ARGUMENT...
#
# INSTALL_WITH may name the program uv, which installs in a tenth of pip's processor time.
#
# VENV is the environment's folder. PYTHON is the interpreter to create it with, or empty to let
# choose_python.sh choose one. The arguments are those of `pip install`.
#
#   sh tools/install.sh --check VENV PYTHON
#
# exits with 0 if the environment works: it lies where it was created and runs on a supported Python,
# which has the version of PYTHON if that is given. Otherwise it exits with 1.
#
# An environment that works is kept, and what was not yet installed is installed. Any other is made
# anew. Nothing else is ever removed:
# VENV may be absent, empty or a virtual environment. Errors are one line on stderr.
set -u
tools=$(dirname "$0")

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

# Prints the version of an interpreter, such as 3.12, or nothing if it does not run.
version_of() {
  "$1" -I -c 'import sys; print("%d.%d" % tuple(sys.version_info[:2]))' < /dev/null 2> /dev/null
}

# Was the environment moved or copied, such that its programs start another one? pyvenv.cfg says
# where it was created.
is_moved() {
  created=$(sed -n 's/^command = .* -m venv \(--[a-z-]* \)*//p' "$1/pyvenv.cfg" 2> /dev/null)
  [ "$created" ] && [ "$(cd -P "$created" 2> /dev/null && pwd)" != "$(cd -P "$1" && pwd)" ]
}

# Does the environment run on a supported Python, and on the one that was asked for, if any?
is_usable() {
  if is_moved "$1"; then
    return 1
  fi
  version=$(version_of "$1/bin/python")
  case $version in
    3.11 | 3.12 | 3.13) [ -z "$2" ] || [ "$version" = "$(version_of "$2")" ] ;;
    *) false ;;
  esac
}

# Is the folder a virtual environment, or the start of one, which has folders but no file yet?
is_environment() {
  [ -f "$1/pyvenv.cfg" ] || [ -z "$(find "$1/" ! -type d ! -name lib64)" ]
}

if [ "$1" = --check ]; then
  is_usable "$2" "$3"
  exit
fi

venv=$1
asked=$2
shift 2

python=
if [ "$asked" ]; then
  python=$(sh "$tools/choose_python.sh" "$asked") || exit 2
fi
if ! is_usable "$venv" "$python"; then
  [ "$python" ] || python=$(sh "$tools/choose_python.sh") || exit 2
  if [ -e "$venv" ] || [ -h "$venv" ]; then
    if [ -h "$venv" ]; then
      fail "$venv is a link and not a working environment; remove the link, or name another folder with VENV="
    fi
    if [ ! -d "$venv" ] || ! is_environment "$venv"; then
      fail "$venv is not a virtual environment and not empty; move it away, or name another folder with VENV="
    fi
  fi
  echo "$venv: creating it with $python ($("$python" -V))"
  "$python" -I -m venv --clear "$venv" ||
    fail "$venv could not be created with $python; the reason is above"
fi

# An environment whose creation was interrupted can lack pip.
"$venv/bin/python" -I -c 'import pip' 2> /dev/null ||
  "$venv/bin/python" -I -m ensurepip > /dev/null ||
  fail "$venv lacks pip, which could not be installed; remove $venv and try again"

# pip writes a package's RECORD last. One without it was interrupted halfway, yet pip would take it
# for installed; without its metadata it is installed anew.
for metadata in "$venv"/lib/python3.*/site-packages/*.dist-info; do
  if [ -d "$metadata" ] && [ ! -f "$metadata/RECORD" ]; then
    rm -r "$metadata"
  fi
done

echo "$venv: installing the packages of requirements.lock; the first time takes minutes"
if [ "${INSTALL_WITH:-}" ]; then
  "$INSTALL_WITH" pip install --quiet --python "$venv/bin/python" --constraint requirements.lock "$@"
else
  "$venv/bin/python" -I -m pip --disable-pip-version-check --quiet install --no-user \
    --constraint requirements.lock "$@"
fi ||
  fail "the packages could not be installed into $venv; the reason is above; mend that, then run make again"
