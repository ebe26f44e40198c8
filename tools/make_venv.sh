#!/bin/sh
# Makes .venv with the Python given as $1, else with the first that fits.
set -eu

if [ $# -gt 0 ]; then
    identity='import sys; print(sys.version, sys.base_prefix)'
    wanted=$("$1" -c "$identity" 2>/dev/null) || wanted=
    [ -n "$wanted" ] && [ "$wanted" = "$(.venv/bin/python -c "$identity" 2>/dev/null)" ] && exit 0
else
    set -- python3.13 python3.12 python3.11 python3 python
fi

# A candidate is run, not looked up: a pyenv shim is there and yet fails.
found='' bare=''
for candidate; do
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || continue
    "$candidate" -c 'import ensurepip, venv' 2>/dev/null && found=$candidate && break
    bare=${bare:-$candidate}
done

if [ -z "$found" ]; then
    if [ -n "$bare" ]; then
        package=$("$bare" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        echo "$bare has no ensurepip: install the package $package (apt install $package) and try again." >&2
    else
        echo "No Python >= 3.11, < 3.14 found (tried: $*): install one, or name it with PYTHON=/path/to/python." >&2
    fi
    exit 1
fi

echo "Making .venv with $found ($("$found" -V))"
trap '[ $? -eq 0 ] || rm -rf .venv' EXIT # half an environment is worse than none
trap 'exit 130' INT TERM
"$found" -m venv --clear .venv
touch .venv/pyvenv.cfg # written first by venv; make takes its time as "done"
