#!/bin/sh
# One command from a fresh clone to a running program: makes .venv from the lock files, then runs what is asked for.
# Needs Python 3.11 to 3.13 and a POSIX shell, no root, nothing else. Changes nothing outside this folder.

set -eu

usage() {
    cat <<'END'
./go demo [ARGUMENTS]   watch a simulated instrument being processed      (nanolab-daemon demo)
./go test [ARGUMENTS]   run the tests                                     (pytest)
./go lint               run the linters and the type checker
./go docs [--to FOLDER] build the documentation as a site               (build/docs/site)
./go run COMMAND ...    run any command of nanolab-daemon
./go setup              set up .venv and stop
./go lock               refresh requirements/*.txt from pyproject.toml

The first use downloads what the lock files name into .venv: about 125 MB, 70 MB more for the tests, and 60 MB more for
the documentation.
PYTHON=/path/to/python3 chooses the interpreter.
END
}

say() { printf '%s\n' "$*" >&2; }
die() {
    say "$@"
    exit 1
}

# How this script was called, through links, from whatever folder.
self=$0
while [ -L "$self" ]; do
    link=$(readlink -- "$self")
    case $link in
        /*) self=$link ;;
        *) self=$(dirname -- "$self")/$link ;;
    esac
done
here=$(CDPATH='' cd -- "$(dirname -- "$self")" && pwd -P)
venv=$here/.venv
python=$venv/bin/python
UV_VERSION=0.13.9

# The environment of the caller must not reach into .venv.
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_REQUIREMENT || :
export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

# Says nothing and succeeds if "$1" can do the work; otherwise says why not.
examine() {
    command -v -- "$1" >/dev/null 2>&1 || return 1
    "$1" -I -c '
import sys, sysconfig
version = ".".join(map(str, sys.version_info[:3]))
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"is Python {version}")
if sys.platform != "linux":
    sys.exit(f"is made for {sys.platform}; this program runs on Linux")
if sys.implementation.name != "cpython" or sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit("is not the usual CPython")
try:
    import ensurepip, venv
except ImportError:
    sys.exit("lacks the modules venv and ensurepip: on Debian and Ubuntu, "
             f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv")
' 2>&1 || return 1
}

# Sets $base to the first suitable interpreter.
find_python() {
    unsuitable=
    for base in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
        if why=$(examine "$base"); then
            return
        fi
        [ -z "$why" ] || unsuitable="$unsuitable
  $(command -v -- "$base") $(printf '%s\n' "$why" | tail -n 1)"
        [ -z "${PYTHON:-}" ] || break
    done
    say "Python 3.11, 3.12 or 3.13 is needed${unsuitable:+, and none of these will do:$unsuitable}"
    say "Install one, for example:"
    say "  Debian 12, Ubuntu 24.04   apt install python3 python3-venv"
    say "  Fedora                    dnf install python3.13"
    die "or point to one that lies elsewhere: PYTHON=/path/to/python3.12 ./go demo"
}

# What .venv was made of: another place, interpreter, script or lock file makes another one.
recipe() {
    "$base" -I - "$here" "$1" <<'END'
import hashlib, pathlib, sys
here, lock = pathlib.Path(sys.argv[1]), sys.argv[2]
mixed = hashlib.sha256(repr((str(here), sys.version, sys.base_prefix)).encode())
for name in ("go", "pyproject.toml", f"requirements/{lock}.txt"):
    mixed.update(hashlib.sha256((here / name).read_bytes()).digest())
print(lock, mixed.hexdigest())
END
}

pip_install() {
    "$python" -m pip install --quiet "$@" || die "The set-up failed: see above. Run the command again to go on."
}

# Makes .venv hold what requirements/$1.txt names, and $2.txt if it is given. Each stamp is written last, so whatever was
# interrupted starts anew.
set_up() {
    stamp=$venv/.go-stamp
    if [ ! -e "$stamp" ] && [ -n "$(ls -A -- "$venv" 2>/dev/null)" ]; then
        die "$venv was not made by this script: move it away, and run the command again."
    fi
    find_python
    exec 9<"$here/go" # one set-up at a time: the lock ends with this shell, or below
    "$base" -I -c '
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    import sys
    print("Another set-up is under way: waiting for it.", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
except OSError:
    pass  # a file system without locks
'
    wanted=$(recipe "$1")
    found=$(cat -- "$stamp" 2>/dev/null || :)
    if [ "$found" != "$wanted" ] && [ "$found" != "$(recipe test)" ]; then # the tests need all that a run needs
        say "Setting up $venv with $("$base" -V) (once; a minute or so) ..."
        mkdir -p -- "$venv"
        printf 'unfinished\n' >"$stamp"
        if [ "$found" != "$(recipe run)" ]; then # otherwise the tests' part is added to what is there
            # --clear would take the stamp away before there is another.
            find "$venv" -mindepth 1 -maxdepth 1 ! -name .go-stamp -exec rm -rf -- {} +
            "$base" -I -m venv -- "$venv" || die "No virtual environment could be made in $venv: see above."
        fi
        pip_install --only-binary :all: --require-hashes -r "$here/requirements/$1.txt"
        pip_install --no-deps --no-build-isolation --no-index -e "$here"
        printf '%s\n' "$wanted" >"$stamp"
    fi
    if [ -n "${2:-}" ]; then # on top: its lock file agrees with the other ones
        stamp=$venv/.go-stamp-$2
        wanted=$(recipe "$2")
        if [ "$(cat -- "$stamp" 2>/dev/null || :)" != "$wanted" ]; then
            say "Adding what requirements/$2.txt names ..."
            # Most of it is never imported, so it is not compiled beforehand.
            pip_install --no-compile --only-binary :all: --require-hashes -r "$here/requirements/$2.txt"
            printf '%s\n' "$wanted" >"$stamp"
        fi
    fi
    exec 9<&-
}

# Runs all of them, whatever the first ones say.
lint() {
    cd -- "$here"
    code=0
    "$python" -m ruff check . || code=1
    "$python" -m ruff format --check . || code=1
    "$python" -m mypy || code=1
    # Through -c, since the script's first line can't hold a path with blanks.
    "$python" -c 'import sys; from importlinter.cli import lint_imports_command as lint; sys.exit(lint())' || code=1
    exit "$code"
}

lock() {
    find_python
    work=$(mktemp -d)
    trap 'rm -rf -- "$work"' EXIT
    trap 'exit 130' INT TERM
    "$base" -I -m venv -- "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet "uv==$UV_VERSION"
    cd -- "$here"
    # Nothing younger than a week: what is bad in a fresh release is mostly found by then.
    compile() {
        "$work/venv/bin/python" -m uv pip compile --quiet --upgrade --no-config --universal --python-version 3.11 \
            --exclude-newer '1 week' --generate-hashes --custom-compile-command './go lock' \
            pyproject.toml --group build --extra http "$@"
    }
    compile -o requirements/run.txt
    compile --group dev -c requirements/run.txt -o requirements/test.txt
    compile --group docs -c requirements/run.txt -c requirements/test.txt -o requirements/docs.txt
    # Its sdist tells its name only where libsystemd-dev and pkg-config are.
    compile --extra systemd -c requirements/run.txt -o requirements/systemd.txt
}

command=${1:-help}
[ $# -eq 0 ] || shift
case $command in
    demo)
        set_up run
        exec "$python" -m nanolab_daemon demo "$@"
        ;;
    run)
        set_up run
        exec "$python" -m nanolab_daemon "$@"
        ;;
    test)
        set_up test
        cd -- "$here"
        exec "$python" -m pytest "$@"
        ;;
    lint)
        set_up test
        lint
        ;;
    docs)
        set_up test docs
        PYTHONPATH=$here/docs exec "$python" -m making "$@"
        ;;
    setup) set_up test ;;
    lock) lock ;;
    help | -h | --help) usage ;;
    *)
        say "There is no ./go $command."
        usage >&2
        exit 2
        ;;
esac
