#!/usr/bin/env bash
# A VPS from submit to ssh, command by command: demo.sh BINARY. Leaves nothing behind, also when it fails or is interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly binary=$PWD/${1:?usage: demo.sh BINARY}
readonly node=hrt-demo-$$
dir=$(mktemp -d "${TMPDIR:-/tmp}/hakuriver-demo.XXXXXX")
readonly dir
up=

clean_up() {
    local status=$?
    trap - EXIT INT TERM
    if [ -n "$up" ] && kill -TERM "$up" 2>/dev/null; then wait "$up" || echo "up ended with status $?"; fi
    docker ps -aq --filter "label=hakuriver.node=$node" | xargs -r docker rm -f -v >/dev/null
    if [ $status -ne 0 ]; then
        echo "demo: failed with status $status; the log of 'hakuriver up':" >&2
        tail -n 30 "$dir/up.log" >&2
    fi
    rm -rf "$dir"
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Prints a command as a user would type it, then runs it.
run() {
    local word line='$'
    for word in "$@"; do
        case $word in
        '' | *[!A-Za-z0-9_./:=@%+,-]*) line+=" '$word'" ;;
        *) line+=" $word" ;;
        esac
    done
    echo "$line"
    "$@"
}

# wait_for SECONDS WHAT COMMAND...: until the command succeeds.
wait_for() {
    local end=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { echo "demo: $what: not within its time" >&2; return 1; }
        sleep 0.05
    done
}

status_is() { hakuriver client status "$id" --json | grep -Eq "\"status\": ?\"$1\""; }
container_is_gone() { [ -z "$(docker ps -aq --filter "label=hakuriver.task=$id" --filter "label=hakuriver.node=$node")" ]; }
up_is_ready() { grep -q 'ready:' "$dir/up.log" && hakuriver client nodes --json | grep -Eq "\"status\": ?\"online\""; }

mkdir "$dir/bin"
ln -s "$binary" "$dir/bin/hakuriver"
export PATH=$dir/bin:$PATH HAKURIVER_CONFIG=$dir/state/config.toml

mkdir -p "$dir/state/shared/hakuriver-containers"
# The name tells the demo's own containers, for its clean-up.
printf '[network]\nrunner_hostname = "%s"\n' "$node" >"$HAKURIVER_CONFIG"

# The system chooses the ports, so that a cluster on this machine is not disturbed; all else is the default.
echo "\$ hakuriver up --state-dir $dir/state --port 0 --ssh-port 0 &"
hakuriver up --state-dir "$dir/state" --port 0 --ssh-port 0 2>"$dir/up.log" &
up=$!
wait_for 30 "hakuriver up is ready" up_is_ready
cat "$dir/up.log"
run hakuriver client nodes

# An environment is a tarball <name>-<unix time>.tar in the shared directory; this is what `docker save` wrote.
run cp target/test-images/sshd.tar "$dir/state/shared/hakuriver-containers/hakuriver-base-$(date +%s).tar"
run ssh-keygen -q -t ed25519 -N '' -C demo -f "$dir/key"

started=$(date +%s.%N)
run hakuriver vps submit --public-key-file "$dir/key.pub" | tee "$dir/submit.out"
id=$(grep -Eo '[0-9]{15,20}' "$dir/submit.out" | head -n 1)
run hakuriver ssh "$id" -i "$dir/key" -o IdentitiesOnly=yes -- 'uname -a; nproc; id'
seconds=$(echo "$(date +%s.%N) $started" | awk '{ printf "%.2f", $1 - $2 }')

run hakuriver vps command "$id" pause
wait_for 20 "the VPS is paused" status_is paused
run hakuriver vps status
run hakuriver vps command "$id" resume
wait_for 20 "the VPS runs again" status_is running
run hakuriver vps status
run hakuriver vps kill "$id"
wait_for 20 "the VPS is killed" status_is killed
wait_for 20 "its container is gone" container_is_gone
run hakuriver client status "$id"

echo "from submit to shell: $seconds s"
