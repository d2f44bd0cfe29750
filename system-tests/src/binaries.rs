//! The binaries under test, as the release profile builds them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// `umbilical-agent`, built from this work tree, or the one that `UMBILICAL_AGENT` names: `cross/test` puts one for
/// another processor in its place.
///
/// # Panics
/// The build fails.
pub fn agent() -> PathBuf {
    env::var_os("UMBILICAL_AGENT").map_or_else(|| programs().join("umbilical-agent"), PathBuf::from)
}

/// `umbilical-cloud`, built from this work tree.
///
/// # Panics
/// The build fails.
pub fn cloud() -> PathBuf {
    programs().join("umbilical-cloud")
}

/// `umbilical-quickstart`, built from this work tree.
///
/// # Panics
/// The build fails.
pub fn quickstart() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| build(&["umbilical-quickstart"])).join("umbilical-quickstart")
}

/// The folder of both. They are built together, as everywhere: another set of packages would be another set of features.
fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| build(&["umbilical-agent", "umbilical-cloud"]))
}

/// Where nothing is to be done, cargo takes a tenth of a second to say so.
fn build(packages: &[&str]) -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(cargo);
    forget_outer_package(&mut cargo);
    let output = cargo
        .current_dir(workspace())
        .args(["build", "--locked", "--release"])
        .args(packages.iter().flat_map(|package| ["--package", package]))
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "the release build failed:\n{}", String::from_utf8_lossy(&output.stderr));
    target().join("release")
}

/// Where cargo puts what it makes.
pub(crate) fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), |dir| workspace().join(dir))
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace")
}

/// What cargo tells a program that it runs is not for the cargo which that program runs: build scripts of others would
/// take it for a change and build everything anew.
fn forget_outer_package(cargo: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
}
