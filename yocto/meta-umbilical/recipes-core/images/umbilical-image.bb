SUMMARY = "An example: the smallest image that can be reached through Umbilical"
DESCRIPTION = "For qemuarm and qemuarm64, or any other machine; with a root file system that is not written to."
HOMEPAGE = "https://github.com/umbilical/umbilical"
BUGTRACKER = "https://github.com/umbilical/umbilical/issues"
SECTION = "images"
LICENSE = "MIT"
CVE_PRODUCT = ""

inherit core-image

IMAGE_FEATURES += "read-only-rootfs"
IMAGE_INSTALL += "packagegroup-umbilical"
