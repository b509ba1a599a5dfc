#!/bin/sh
# Run the Autobahn test suite against the server: tests/conformance/run.sh [CASE...]
#
# The suite lives on Python 2.7 only: PYTHON27 names one, else it is looked for on PATH
# and among pyenv's versions. It is installed once, into .conformance, where its report
# (.conformance/report/index.html) is found, too. Without arguments every case runs but
# the performance cases, 9.*; those of compression, 12.* and 13.*, take most of the time.
# PYTHON is the interpreter that the server runs on.
set -eu
set -f # CASE may be 12.*

cd "$(dirname "$0")/../.."
here=tests/conformance
home=$PWD/.conformance
python=${PYTHON:-python3}

# What the suite has in version 25.10.1, without 9.*.
expected=463

is_27() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null
}

find_27() {
    set +f
    for candidate in "${PYTHON27:-}" python2.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7*/bin/python
    do
        if [ -n "$candidate" ] && is_27 "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "There is no Python 2.7 here, which the Autobahn test suite needs:" \
        "name one with PYTHON27=..." >&2
    exit 1
}

python27=$(find_27)

if ! cmp -s $here/requirements.txt "$home/installed"; then
    echo "Installing the Autobahn test suite into .conformance ..."
    rm -rf "$home"
    mkdir "$home"
    "$python27" -m pip --version >/dev/null 2>&1 || "$python27" -m ensurepip --user >/dev/null
    "$python27" -m pip --disable-pip-version-check --quiet install \
        --target "$home/suite" --requirement $here/requirements.txt 2>"$home/install.log" || {
        cat "$home/install.log" >&2
        exit 1
    }
    cp $here/requirements.txt "$home/installed"
fi

excluded=
if [ $# -eq 0 ]; then
    set -- '*'
    excluded='"9.*"'
else
    expected=0
fi
cases=$(printf '"%s",' "$@")

mkfifo "$home/url.$$"
trap 'rm -f "$home/url.$$"' EXIT
"$python" -m tests.conformance.serve >"$home/url.$$" 2>"$home/server.log" &
server=$!
trap 'kill $server 2>/dev/null || true; rm -f "$home/url.$$"' EXIT
trap 'exit 130' INT TERM
read -r url <"$home/url.$$"

rm -rf "$home/report"
cat >"$home/spec.json" <<SPEC
{
    "outdir": "$home/report",
    "servers": [{"agent": "django_daphne", "url": "$url"}],
    "cases": [${cases%,}],
    "exclude-cases": [$excluded],
    "exclude-agent-cases": {}
}
SPEC

"$python27" $here/wstest.py "$home/suite" --mode fuzzingclient \
    --spec "$home/spec.json" >"$home/wstest.log" 2>&1 || {
    tail -n 20 "$home/wstest.log" >&2
    exit 1
}
"$python" $here/verdict.py "$home/report/index.json" $expected
