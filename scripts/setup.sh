#!/usr/bin/env bash
# Makes this machine ready to build, check, test or measure HakuRiver: setup.sh build|check|test|bench|fuzz.
#
# A bare Debian 12 with a Rust toolchain is enough. As root, missing packages are installed by name, and dockerd is
# started if none answers. Without root, or where a package cannot be had, it says what is missing and exits with 1.
# The second call finds everything in place and is done at once.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly what=${1:-build}
readonly docker_deadline=60 # seconds until dockerd must answer

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

say() { printf 'setup: %s\n' "$*" >&2; }

have() { command -v "$1" >/dev/null 2>&1; }

# A version as a number that can be compared: 1.88.0 -> 1088000.
version_number() {
    local IFS=. parts
    read -r -a parts <<<"$1"
    echo $((${parts[0]:-0} * 1000000 + ${parts[1]:-0} * 1000 + ${parts[2]:-0}))
}

check_rust() {
    # rustup's default place, for shells that have not read ~/.cargo/env.
    [ -d "$HOME/.cargo/bin" ] && export PATH="$PATH:$HOME/.cargo/bin"
    local wanted found tool
    wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    for tool in cargo rustc; do
        have "$tool" || fail "$tool is not installed; HakuRiver needs Rust $wanted or newer" \
            "install it with https://rustup.rs (Debian 12's own package is too old), then call make again"
        found=$("$tool" --version | sed 's/^[a-z]* \([0-9.]*\).*/\1/')
        [ "$(version_number "$found")" -ge "$(version_number "$wanted")" ] ||
            fail "$tool is $found; HakuRiver needs Rust $wanted or newer" "update it with: rustup update stable"
    done
}

check_components() {
    local tool
    for tool in fmt clippy; do
        cargo "$tool" --version >/dev/null 2>&1 || fail "cargo $tool is not installed" \
            "install it with: rustup component add rustfmt clippy"
    done
}

# Installs the packages that the named programs or files come from, if they are missing: "program:package" pairs.
need() {
    local pair probe missing=()
    for pair in "$@"; do
        probe=${pair%%:*}
        case $probe in
        /*) [ -e "$probe" ] || missing+=("${pair#*:}") ;;
        *) have "$probe" || [ -x "/usr/sbin/$probe" ] || missing+=("${pair#*:}") ;;
        esac
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || fail "these packages are missing: ${missing[*]}" \
        "call this as root, or install them with: sudo apt-get install ${missing[*]}"
    have apt-get || fail "these packages are missing, and this is not Debian: ${missing[*]}" \
        "install what they are called here, then call make again"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    local log
    log=$(mktemp)
    if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}"; } </dev/null >"$log" 2>&1; then
        tail -n 15 "$log" >&2
        rm -f "$log"
        fail "cannot install ${missing[*]}: see the lines above" \
            "without a network, install these packages from a mirror or medium of your own"
    fi
    rm -f "$log"
}

docker_answers() { timeout 10 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# dockerd needs the cgroups of the kernel mounted and a working iptables; systemd sees to the first, nobody to the second.
prepare_kernel() {
    if ! grep -q ' cgroup2\? ' /proc/mounts; then
        need cgroupfs-mount:cgroupfs-mount
        cgroupfs-mount || fail "cannot mount the kernel's cgroups, which Docker needs (cgroupfs-mount failed)"
    fi
    if ! iptables -t nat -S >/dev/null 2>&1 && iptables-legacy -t nat -S >/dev/null 2>&1; then
        say "this kernel knows iptables-legacy only: choosing it"
        update-alternatives --quiet --set iptables /usr/sbin/iptables-legacy
    fi
}

start_docker() {
    docker_answers && return 0
    [ "$(id -u)" = 0 ] || fail "no Docker daemon answers, or this user may not talk to it" \
        "start it with: sudo systemctl start docker; and add the user to its group: sudo usermod -aG docker $(id -un)"
    local log=/var/log/dockerd.log
    if [ -d /run/systemd/system ]; then
        say "starting docker.service"
        systemctl start docker || fail "systemctl start docker failed; see: journalctl -u docker"
        log="journalctl -u docker"
    else
        prepare_kernel
        say "starting dockerd, log in $log"
        # A pid file of a daemon that was killed would keep the new one from starting.
        if [ -f /run/docker.pid ] && ! kill -0 "$(cat /run/docker.pid)" 2>/dev/null; then rm -f /run/docker.pid; fi
        setsid -f dockerd </dev/null >>"$log" 2>&1
    fi
    local end=$((SECONDS + docker_deadline))
    until docker_answers; do
        [ $SECONDS -lt $end ] || {
            [ -f "$log" ] && tail -n 15 "$log" >&2
            fail "dockerd does not answer after $docker_deadline s; see $log"
        }
        sleep 0.2
    done
}

check_rust
case $what in
build | check)
    # SQLite is compiled from its source; the static binary needs the C library's archive.
    need gcc:gcc /usr/lib/x86_64-linux-gnu/libc.a:libc6-dev
    [ "$what" = build ] || check_components
    ;;
test | bench)
    need docker:docker.io dockerd:docker.io containerd:containerd iptables:iptables ssh:openssh-client ssh-keygen:openssh-client \
        mmdebstrap:mmdebstrap rsync:rsync ip:iproute2 ps:procps bindfs:bindfs
    [ "$what" = test ] || need socat:socat curl:curl
    start_docker
    ;;
fuzz)
    # libFuzzer is C++.
    need gcc:gcc g++:g++ /usr/lib/x86_64-linux-gnu/libc.a:libc6-dev
    if ! cargo fuzz --version >/dev/null 2>&1; then
        say "installing cargo-fuzz"
        cargo install --quiet --locked cargo-fuzz || fail "cannot install cargo-fuzz" "install it with: cargo install cargo-fuzz"
    fi
    ;;
*) fail "unknown argument '$what'; one of: build, check, test, bench, fuzz" ;;
esac
