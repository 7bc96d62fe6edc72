#!/bin/sh
# Prints the Python interpreter with which `make` creates a virtual environment.
#
#   sh tools/choose_python.sh            the newest supported interpreter on PATH that works
#   sh tools/choose_python.sh PYTHON     this interpreter: a command on PATH or a path
#
# An interpreter works if it starts, is CPython 3.11, 3.12 or 3.13 with the GIL, and can create a
# virtual environment. A name on PATH alone says little: a version manager's shim exists and fails
# when its version is not selected. So each candidate is run.
#
# The output is a single line: the interpreter's path on stdout, or on stderr why there is none and
# what to do about it; the exit code is then 2.
set -u

# Newest first, so that the search ends with the first interpreter that can't be improved upon.
NAMES='python3.13 python3.12 python3.11 python3 python'
NEWEST=3.13
NEWLINE='
'

# This program is also run by interpreters that are not supported, Python 2 among them. It prints
# its verdict, then the interpreter's version, then the path or the reason, separated by bars.
PROBE='
import sys
version = "%d.%d" % tuple(sys.version_info[:2])
def check():
    if version not in ("3.11", "3.12", "3.13"):
        return "is Python " + version
    if sys.implementation.name != "cpython":
        return "is " + sys.implementation.name + ", not CPython"
    import sysconfig
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "is a free-threaded build, for which the packages have no wheels"
    for module in ("venv", "ensurepip", "ssl", "zlib", "ctypes"):
        try:
            __import__(module)
        except ImportError:
            return "lacks its module " + module
    return ""
reason = check()
# Inside a virtual environment this is the interpreter from which the environment was made.
path = getattr(sys, "_base_executable", None) or sys.executable
print("|".join(["refused", version, reason] if reason else ["works", version, path]))
'

# Runs a candidate and sets verdict, version and detail.
probe() {
  answer=$("$1" -I -c "$PROBE" < /dev/null 2> /dev/null)
  # Only the last line counts, since a wrapper may print something first.
  answer=${answer##*"$NEWLINE"}
  case $answer in
    works\|3.*\|/*|refused\|*\|?*)
      verdict=${answer%%|*}
      rest=${answer#*|}
      version=${rest%%|*}
      detail=${rest#*|}
      ;;
    *)
      verdict=refused
      version=0
      # Python 2 and 3.3 do not know the option -I.
      old=$("$1" -E -s -c 'import sys; print("%d.%d" % tuple(sys.version_info[:2]))' < /dev/null 2> /dev/null)
      case $old in
        [23].*) detail="is Python $old" ;;
        *) detail='does not run' ;;
      esac
      ;;
  esac
}

refuse() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

if [ "${1:-}" ]; then
  found=$(command -v -- "$1" 2> /dev/null) || found=
  case $found in
    */*) ;;
    # A shell's built-in command or function of that name is not an interpreter.
    *) refuse "PYTHON=$1: there is no such program; name a Python 3.11, 3.12 or 3.13, or leave PYTHON out" ;;
  esac
  probe "$found"
  if [ "$verdict" != works ]; then
    case $detail in
      *module*) remedy="install it (Debian and Ubuntu: apt install python$version-venv), or name another Python" ;;
      *) remedy='name a Python 3.11, 3.12 or 3.13 that runs, or leave PYTHON out' ;;
    esac
    refuse "PYTHON=$1: it $detail; $remedy"
  fi
  printf '%s\n' "$detail"
  exit 0
fi

# Is the first version newer than the second one? Both are 3.11, 3.12 or 3.13; the second may be empty.
is_newer() {
  [ -z "$2" ] || [ "${1#3.}" -gt "${2#3.}" ]
}

best_version=
best_path=
seen=
for name in $NAMES; do
  folders=$PATH:
  while [ "$folders" ]; do
    folder=${folders%%:*}
    folders=${folders#*:}
    candidate=${folder:-.}/$name
    if [ ! -f "$candidate" ] || [ ! -x "$candidate" ]; then
      continue
    fi
    probe "$candidate"
    if [ "$verdict" != works ]; then
      case ", $seen," in
        *", $name $detail,"*) ;;
        *) seen="$seen${seen:+, }$name $detail" ;;
      esac
    elif is_newer "$version" "$best_version"; then
      best_version=$version
      best_path=$detail
    fi
    if [ "$best_version" = "$NEWEST" ]; then
      break 2
    fi
  done
done

if [ "$best_path" ]; then
  printf '%s\n' "$best_path"
  exit 0
fi
refuse "no Python 3.11, 3.12 or 3.13 that works was found on PATH${seen:+ ($seen)}; install one with\
 its venv module (Debian and Ubuntu: apt install python3 python3-venv), or name one: make PYTHON=/path/to/python3.12"
