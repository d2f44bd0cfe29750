//! Promise: what ships the agent ships this agent: packages hold what they must and nothing else, versions and licences are those of
//! the work tree, the Yocto recipe's list of crates is that of Cargo.lock, scripts run.
#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use umbilical_system_tests::{
    binaries,
    deployment::{Setup, Topology},
    process::{Process, run},
    wait,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const RECIPES: &str = "yocto/meta-umbilical/recipes-connectivity/umbilical";

#[test]
fn a_debian_package_holds_the_agent_and_what_it_wants() {
    let folder = TempDir::new().unwrap();
    let package = deb("amd64", folder.path());
    assert_eq!(package.file_name().unwrap().to_str().unwrap(), format!("umbilical-agent_{VERSION}_amd64.deb"));
    let field = |name: &str| run("dpkg-deb", Command::new("dpkg-deb").arg("-f").arg(&package).arg(name), wait::SOON);
    assert_eq!((field("Version").trim(), field("Architecture").trim()), (VERSION, "amd64"));
    assert!(field("Depends").contains("libc6 (>= 2."), "the binary of this test is linked to a C library");

    let root = folder.path().join("root");
    run("dpkg-deb", Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root), wait::SOON);
    let mut agent = Command::new(root.join("usr/bin/umbilical-agent"));
    assert_eq!(run("agent", agent.arg("--version"), wait::SOON).trim(), format!("umbilical-agent {VERSION}"));
    for (place, source) in [
        ("lib/systemd/system/umbilical-agent.service", "systemd/umbilical-agent.service"),
        ("usr/lib/sysusers.d/umbilical.conf", "systemd/sysusers.d/umbilical.conf"),
        ("usr/lib/tmpfiles.d/umbilical.conf", "systemd/tmpfiles.d/umbilical.conf"),
        ("usr/share/doc/umbilical-agent/examples/agent.toml", "agent/examples/agent.toml"),
    ] {
        assert!(read(&root.join(place)) == read(&tree(source)), "{place} is not {source}");
    }
    run("dpkg-deb", Command::new("dpkg-deb").arg("-e").arg(&package).arg(folder.path().join("control")), wait::SOON);
    let mut sums = Command::new("md5sum");
    run("md5sum", sums.args(["--check", "--quiet", "../control/md5sums"]).current_dir(&root), wait::SOON);
    for script in ["postinst", "prerm"] {
        run(script, Command::new("sh").arg("-n").arg(folder.path().join("control").join(script)), wait::SOON);
    }
    let list = run("dpkg-deb", Command::new("dpkg-deb").arg("-c").arg(&package), wait::SOON);
    assert!(list.lines().all(|line| line.contains(" root/root ")), "somebody else owns a file:\n{list}");

    let again = deb("amd64", &folder.path().join("again"));
    assert!(fs::read(package).unwrap() == fs::read(again).unwrap(), "two runs give different packages");
}

#[test]
fn a_package_is_refused_for_another_machine_than_the_binarys() {
    let folder = TempDir::new().unwrap();
    let mut command = Command::new(tree("packaging/deb"));
    let mut packing = Process::start("deb", command.arg("armhf").arg(binaries::agent()).arg(folder.path()));
    assert_eq!(packing.ended(wait::SOON).code(), Some(1));
    packing.line_with(&["is for", "not for armhf"], wait::SOON);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn versions_and_licences_are_those_of_the_work_tree() {
    let recipe = read(&tree(&format!("{RECIPES}/umbilical-agent_{VERSION}.bb")));
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        let sum = run("md5sum", Command::new("md5sum").arg(tree(licence)), wait::SOON);
        let line = format!("file://{licence};md5={} ", sum.split_whitespace().next().unwrap());
        assert!(recipe.contains(&line), "the recipe has another checksum of {licence}, expected {line}");
    }
    assert!(read(&tree("openwrt/umbilical-agent/Makefile")).contains(&format!("\nPKG_VERSION:={VERSION}\n")));
}

#[test]
fn the_recipe_fetches_every_crate_of_the_lock_file() {
    let include = run("crates-inc", &mut Command::new(tree("yocto/crates-inc")), wait::SOON);
    let lock = read(&tree("Cargo.lock"));
    let mut crates = 0;
    for package in lock.split("[[package]]").filter(|package| package.contains("\nsource = ")) {
        let field = |name: &str| package.split_once(&format!("\n{name} = \"")).unwrap().1.split('"').next().unwrap();
        let (name, version, checksum) = (field("name"), field("version"), field("checksum"));
        assert!(
            include.contains(&format!("    crate://crates.io/{name}/{version} \\\n")),
            "{name} {version} is missing"
        );
        assert!(include.contains(&format!("SRC_URI[{name}-{version}.sha256sum] = \"{checksum}\"")), "{name} {version}");
        crates += 1;
    }
    assert!(crates > 100, "{crates} crates in Cargo.lock");
    assert_eq!(include.matches("crate://").count(), crates);
    let head = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(tree("")).output().unwrap();
    let revision =
        if head.status.success() { String::from_utf8(head.stdout).unwrap() } else { "${AUTOREV}".to_owned() };
    assert!(include.contains(&format!("SRCREV = \"{}\"", revision.trim())));
}

#[test]
fn a_crates_registry_is_named_and_what_has_none_is_refused() {
    let folder = TempDir::new().unwrap();
    let lock = folder.path().join("Cargo.lock");
    let package =
        |source| format!("[[package]]\nname = 'x'\nversion = '1.0.0'\nsource = '{source}'\nchecksum = 'c0ffee'\n");
    let mut command = Command::new(tree("yocto/crates-inc"));
    fs::write(&lock, package("sparse+https://crates.example.net/index/")).unwrap();
    assert!(run("crates-inc", command.arg(&lock), wait::SOON).contains("crate://crates.example.net/x/1.0.0 "));
    fs::write(&lock, package("git+https://example.net/x#123")).unwrap();
    let mut refused = Process::start("crates-inc", &mut command);
    assert_eq!(refused.ended(wait::SOON).code(), Some(1));
    refused.line_with(&["git+https://example.net/x#123 is no registry"], wait::SOON);
}

#[test]
fn what_an_image_runs_as_ptest_passes() {
    let deployment = Setup::new(Topology::Embedded).write();
    let mut ptest = Command::new("sh");
    ptest.arg(tree(&format!("{RECIPES}/umbilical-agent/run-ptest")));
    ptest.env("PROGRAM", binaries::agent()).env("CA_FILE", deployment.path("ca.pem"));
    let said = run("run-ptest", &mut ptest, wait::SOON);
    assert_eq!((said.matches("PASS: ").count(), said.matches("FAIL: ").count()), (9, 0), "{said}");
}

#[test]
fn init_scripts_are_scripts() {
    for script in [
        format!("{RECIPES}/umbilical-agent/umbilical-agent.init"),
        "openwrt/umbilical-agent/files/umbilical-agent.init".into(),
    ] {
        run("sh", Command::new("sh").arg("-n").arg(tree(&script)), wait::SOON);
    }
}

fn deb(arch: &str, folder: &Path) -> PathBuf {
    let mut command = Command::new(tree("packaging/deb"));
    let said = run("deb", command.arg(arch).arg(binaries::agent()).arg(folder), wait::SOON);
    PathBuf::from(said.lines().last().unwrap())
}

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
