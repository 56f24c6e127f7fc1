#!/bin/sh
# Measure every series on this machine: asv_bench/run_gpu.sh FOLDER [COMMIT [DATE]] [-- OPTION-OF-ASV-RUN...]
#
# FOLDER gets what asv_bench/results holds, under COMMIT (40 digits; default: HEAD of this checkout) and its DATE (seconds
# since 1970). Needs no history: asv is given an empty repository, and the results their commit afterwards. PYTHON has numba_fa's
# dependencies, asv and, for the GPU's series, torch; the kernels are those of this checkout.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
[ $# -ge 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd); shift
commit=; date=
[ $# -eq 0 ] || [ "$1" = -- ] || { commit=$1; shift; }
[ $# -eq 0 ] || [ "$1" = -- ] || { date=$1; shift; }
[ $# -eq 0 ] || shift
python=$(command -v "${PYTHON:-python3}")
[ -n "$commit" ] || commit=$(git -C "$root" rev-parse HEAD)
[ -n "$date" ] || date=$(git -C "$root" show -s --format=%ct "$commit" 2>/dev/null || date +%s)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git init -q -b main "$work/repo"
git -C "$work/repo" -c user.name=asv -c user.email=asv@localhost commit -q --allow-empty -m measured
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" NUMBA_FA_CACHE_DIR="${NUMBA_FA_CACHE_DIR:-$work/store}"
export ASV_PYTHONPATH="$PYTHONPATH"  # asv hides PYTHONPATH itself from benchmarks
export HOME="$work"  # of the machine's description
"$python" "$root/asv_bench/results.py" configure "$root/asv_bench" "$work"

"$python" "$root/asv_bench/results.py" slugs |
    xargs "$python" -m numba_fa compile --jobs 8 || true  # a series that needs what failed says so
status=0
"$python" -m asv run --config "$work/asv.conf.json" --machine "$(cat "$work/machine")" -E "existing:$python" \
    --set-commit-hash "$(git -C "$work/repo" rev-parse HEAD)" --show-stderr "$@" || status=$?
"$python" "$root/asv_bench/results.py" collect "$work/results" "$out" "$commit" "$date"
exit $status
