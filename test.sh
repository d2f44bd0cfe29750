#!/usr/bin/env bash
# Runs every test of the workspace, those with real programs included.
#
#   ./test.sh              installs what the tests need (Debian, Ubuntu; as root) and runs them all
#   ./test.sh --test nginx arguments go to `cargo test` for the system tests, and only those run
#
# What is installed is never started as a service: the tests run their own copies, on ports of their own, in folders of their own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export PATH="$PATH:/usr/sbin:/sbin"

# Programs the tests run, and the package that has each.
programs=(
    ssh:openssh-client scp:openssh-client sshd:openssh-server
    nginx:nginx-light wrk:wrk
    pgbench:postgresql initdb:postgresql
    iperf3:iperf3
    haproxy:haproxy
    tinyproxy:tinyproxy-bin
    dnsmasq:dnsmasq-base dig:bind9-dnsutils
    snmpd:snmpd snmpget:snmp
    curl:curl
    promtool:prometheus
    node:nodejs npm:npm
    python3:python3 pip3:python3-pip
    systemd-analyze:systemd systemd-socket-activate:systemd systemd-sysusers:systemd systemd-tmpfiles:systemd
    strace:strace readelf:binutils dpkg-deb:dpkg git:git
)

# PostgreSQL's programs live beside each other, outside of PATH.
find_program() {
    command -v "$1" >/dev/null || compgen -G "/usr/lib/postgresql/*/bin/$1" >/dev/null
}

missing_packages() {
    local entry
    for entry in "${programs[@]}"; do
        find_program "${entry%%:*}" || echo "${entry#*:}"
    done | sort -u
}

install_packages() {
    local policy=/usr/sbin/policy-rc.d cluster=/etc/postgresql-common/createcluster.d/umbilical-tests.conf made=() file
    echo "installing for the tests: $*"
    # Neither a running nginx nor a PostgreSQL cluster may be what a test run leaves behind.
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made+=("$policy")
    fi
    mkdir -p "$(dirname "$cluster")"
    echo 'create_main_cluster = false' >"$cluster"
    made+=("$cluster")
    local status=0
    apt_get install -y --no-install-recommends "$@" || { apt_get update && apt_get install -y --no-install-recommends "$@"; } || status=$?
    for file in "${made[@]}"; do rm -f "$file"; done
    if [ "$status" -ne 0 ]; then
        echo "apt-get could not install: $*; see its message above" >&2
        return "$status"
    fi
    if command -v systemctl >/dev/null; then
        for file in "$@"; do
            case "$file" in
                nginx-light) systemctl disable nginx ;;
                haproxy) systemctl disable haproxy ;;
                openssh-server) systemctl disable ssh ;;
                snmpd) systemctl disable snmpd ;;
                prometheus) systemctl disable prometheus ;;
            esac
        done >/dev/null 2>&1 || true
    fi
}

apt_get() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" </dev/null
}

mapfile -t missing < <(missing_packages)
if [ "${#missing[@]}" -gt 0 ]; then
    if ! command -v apt-get >/dev/null; then
        echo "the tests need programs that this system lacks; their Debian packages are: ${missing[*]}" >&2
        exit 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "the tests need programs that are not installed; as root: apt-get install ${missing[*]}" >&2
        echo "then run ./test.sh again (the tests themselves need no root)" >&2
        exit 1
    fi
    install_packages "${missing[@]}"
fi

cargo build --locked --release -p umbilical-agent -p umbilical-cloud
cargo build --locked --release -p umbilical-quickstart
if [ "$#" -gt 0 ]; then
    exec cargo test --locked -p umbilical-system-tests "$@"
fi
# First what needs few programs and tells most, then the real programs, one test file at a time.
status=0
cargo test --locked --workspace --exclude umbilical-system-tests --no-fail-fast || status=$?
cargo test --locked -p umbilical-system-tests --no-fail-fast || status=$?
exit "$status"
