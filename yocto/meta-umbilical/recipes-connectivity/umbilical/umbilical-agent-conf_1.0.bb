SUMMARY = "Configuration of umbilical-agent"
DESCRIPTION = "A recipe of its own, so that a change of the configuration does not build the agent anew."
HOMEPAGE = "https://github.com/umbilical/umbilical"
BUGTRACKER = "https://github.com/umbilical/umbilical/issues"
SECTION = "net"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"
CVE_PRODUCT = ""

SRC_URI = "file://agent.toml"

S = "${UNPACKDIR}"

inherit allarch

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -D -m 0644 ${UNPACKDIR}/agent.toml ${D}${sysconfdir}/umbilical/agent.toml
    if grep -q 'relay.example.net' ${UNPACKDIR}/agent.toml; then
        bbwarn "agent.toml is the layer's example: replace it by a bbappend of your own"
    fi
}

CONFFILES:${PN} = "${sysconfdir}/umbilical/agent.toml"
