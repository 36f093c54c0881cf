#!/usr/bin/env bash
# Removes what tests, demos and benches left behind (after a kill -9 of them): their processes, control groups, containers,
# images and directories.
# Names begin with hrt-, so that no real cluster's containers can be meant.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly ours='hrt-[0-9]+-[0-9a-z]+'

# Hosts, Runners and supervisors, by their directory or node in the command line; tasks, by where their output goes.
for process in /proc/[0-9]*; do
    line=$({ tr "\0" " " <"$process/cmdline"; } 2>/dev/null) || continue
    if [[ ${line%% *} =~ hakuriver && $line =~ $ours ]] ||
        { [[ $(readlink "$process/fd/1") =~ /$ours/runner/ ]] && grep -qs HAKURIVER_TASK_ID= "$process/environ"; }; then
        [ "${process#/proc/}" = $$ ] || kill -KILL "${process#/proc/}" 2>/dev/null || true
    fi
done

if command -v docker >/dev/null 2>&1 && timeout 10 docker version >/dev/null 2>&1; then
    # By the node's name, or by what is mounted, where a test wanted a name of its own.
    docker ps -a --no-trunc --filter label=hakuriver.node --format '{{.ID}} {{.Label "hakuriver.node"}} {{.Mounts}}' |
        awk '$2 ~ /^hrt-/ || $3 ~ /\/hrt-[0-9]+-[0-9]+\// { print $1 }' | xargs -r docker rm -f -v >/dev/null
    docker images --format '{{.Repository}}:{{.Tag}}' |
        awk '/^hakuriver-test\// || /^hakuriver\/(test|hrt)-/' | xargs -r docker rmi >/dev/null
fi
# Frozen ones thaw first, or their processes would not end.
find /sys/fs/cgroup -depth -type d -regextype posix-extended -regex ".*/hakuriver[^/]*$ours.*" 2>/dev/null |
    while read -r group; do
        if [ -e "$group/freezer.state" ]; then echo THAWED >"$group/freezer.state" || true; fi
        rmdir "$group" 2>/dev/null || true
    done
rm -rf target/test-images target/x86_64-unknown-linux-gnu/tmp target/tmp "${TMPDIR:-/tmp}"/hakuriver-demo.* "${TMPDIR:-/tmp}"/hrt-*
echo "kept: ~/.cache/hakuriver-test (the root file systems of the test images)"
