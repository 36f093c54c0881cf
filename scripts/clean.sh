#!/usr/bin/env bash
# Removes what tests, demos and benches left behind (after a kill -9 of them): their containers, images and directories.
# Names begin with hrt-, so that no real cluster's containers can be meant.
set -euo pipefail
cd "$(dirname "$0")/.."

if command -v docker >/dev/null 2>&1 && timeout 10 docker version >/dev/null 2>&1; then
    # By the node's name, or by what is mounted, where a test wanted a name of its own.
    docker ps -a --no-trunc --filter label=hakuriver.node --format '{{.ID}} {{.Label "hakuriver.node"}} {{.Mounts}}' |
        awk '$2 ~ /^hrt-/ || $3 ~ /\/hrt-[0-9]+-[0-9]+\// { print $1 }' | xargs -r docker rm -f -v >/dev/null
    docker images --format '{{.Repository}}:{{.Tag}}' |
        awk '/^hakuriver-test\// || /^hakuriver\/(test|hrt)-/' | xargs -r docker rmi >/dev/null
fi
rm -rf target/test-images target/x86_64-unknown-linux-gnu/tmp target/tmp "${TMPDIR:-/tmp}"/hakuriver-demo.* "${TMPDIR:-/tmp}"/hrt-*
echo "kept: ~/.cache/hakuriver-test (the root file systems of the test images)"
