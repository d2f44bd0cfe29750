SUMMARY = "Reaches the ports of a device that nobody can dial"
DESCRIPTION = "The device side: one WebSocket out, every configured service of the device reachable by a gateway in the cloud."
HOMEPAGE = "https://github.com/umbilical/umbilical"
BUGTRACKER = "https://github.com/umbilical/umbilical/issues"
SECTION = "net"
LICENSE = "MIT | Apache-2.0"
LIC_FILES_CHKSUM = " \
    file://LICENSE-MIT;md5=ea4b0a797cdecb4009ea6bbc857e9a46 \
    file://LICENSE-APACHE;md5=3b83ef96387f14655fc854ddc3c6bd57 \
"
CVE_PRODUCT = "umbilical:umbilical"

# ../../../prepare writes it
require umbilical-agent-crates.inc

SRC_URI += " \
    git://github.com/umbilical/umbilical;protocol=https;branch=main \
    file://run-ptest \
    file://umbilical-agent.init \
"

inherit cargo ptest systemd update-rc.d useradd

# one crate of a workspace, whose lock file is above it
CARGO_SRC_DIR = "agent"
CARGO_LOCK_PATH = "${S}/Cargo.lock"

# bitbake strips itself, and keeps the symbols for -dbg
export CARGO_PROFILE_RELEASE_STRIP = "none"

SYSTEMD_SERVICE:${PN} = "umbilical-agent.service"

INITSCRIPT_NAME = "umbilical-agent"
INITSCRIPT_PARAMS = "defaults 80 20"

# systemd makes up a user; the init script needs one that is there
USERADD_PACKAGES = "${PN}"
USERADD_PARAM:${PN} = "--system --user-group --no-create-home --home-dir /run/umbilical --shell /bin/false umbilical"

do_install:append() {
    install -d ${D}${sysconfdir}/umbilical
    if ${@bb.utils.contains('DISTRO_FEATURES', 'systemd', 'true', 'false', d)}; then
        install -D -m 0644 ${S}/systemd/umbilical-agent.service ${D}${systemd_system_unitdir}/umbilical-agent.service
    fi
    if ${@bb.utils.contains('DISTRO_FEATURES', 'sysvinit', 'true', 'false', d)}; then
        install -D -m 0755 ${UNPACKDIR}/umbilical-agent.init ${D}${sysconfdir}/init.d/umbilical-agent
    fi
}

FILES:${PN} += "${systemd_system_unitdir}/umbilical-agent.service"

# authorities that vouch for the relay, and who it is: an image may have its own of both
RRECOMMENDS:${PN} = "ca-certificates umbilical-agent-conf"
