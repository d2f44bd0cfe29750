SUMMARY = "What a device needs to be reached through Umbilical"
DESCRIPTION = "The agent, its configuration, and an SSH server to be reached."
HOMEPAGE = "https://github.com/umbilical/umbilical"
BUGTRACKER = "https://github.com/umbilical/umbilical/issues"
SECTION = "net"
LICENSE = "MIT"
CVE_PRODUCT = ""

inherit packagegroup

RDEPENDS:${PN} = " \
    dropbear \
    umbilical-agent \
    umbilical-agent-conf \
"
