#!/usr/bin/env bash
# Makes up inputs for every reader of foreign bytes, one reader after the other, on one core: fuzz.sh [MINUTES [TARGET...]]
#
# MINUTES (1 if not given) are for each target. New inputs that are of interest are collected in fuzz/target/corpus, and what breaks a
# promise in fuzz/artifacts: it belongs into fuzz/corpus/TARGET when it is mended, where `make test` tries it for ever after. With
# KEEP=1 the smallest set of inputs that reaches all that was reached is added to fuzz/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly minutes=${1:-1}
[[ $minutes =~ ^[0-9]+$ ]] || { printf 'fuzz: MINUTES is a number, not %q\n' "$minutes" >&2; exit 2; }
targets=("${@:2}")
if [ ${#targets[@]} = 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi
# What is tried is safe code, so a sanitizer would find nothing that overflow checks and assertions do not; without it there is no
# need for a nightly compiler, and it is three times as fast.
readonly how=(--sanitizer none --debug-assertions)
readonly bounds=(-timeout=10 -rss_limit_mb=1024 -malloc_limit_mb=256)

broken=()
for target in "${targets[@]}"; do
    found=fuzz/target/corpus/$target
    mkdir -p "$found"
    log=fuzz/target/$target.log
    cargo fuzz build "${how[@]}" "$target" 2>"$log" || { tail -n 20 "$log" >&2; exit 1; }
    state=holds
    if ! nice -n 10 cargo fuzz run "${how[@]}" "$target" "$found" "fuzz/corpus/$target" -- \
        -max_total_time=$((minutes * 60)) -print_final_stats=1 "${bounds[@]}" >"$log" 2>&1; then
        state="BROKEN, see $log"
        broken+=("$target")
    fi
    printf '%-16s %12s executions  %6s inputs  %s\n' "$target" \
        "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" "$(find "$found" -type f | wc -l)" "$state"
    if [ "${KEEP:-}" = 1 ]; then
        cargo fuzz run "${how[@]}" "$target" "fuzz/corpus/$target" "$found" -- -merge=1 "${bounds[@]}" >>"$log" 2>&1
    fi
done
[ ${#broken[@]} = 0 ] || { printf 'fuzz: %s\n' "${broken[@]/%/ breaks a promise}" >&2; exit 1; }
