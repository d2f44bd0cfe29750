//! The two programs, built from this work tree as they would be released.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::error::Error;

/// Where they are.
pub(crate) struct Binaries {
    pub(crate) agent: PathBuf,
    pub(crate) cloud: PathBuf,
}

/// Has cargo build them; its progress goes to the terminal.
pub(crate) fn build() -> Result<Binaries, Error> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(cargo);
    forget_outer_package(&mut cargo);
    let status = cargo
        .current_dir(workspace)
        .args(["build", "--locked", "--release", "--package", "umbilical-agent", "--package", "umbilical-cloud"])
        .status()
        .map_err(Error::NoCargo)?;
    if !status.success() {
        return Err(Error::Build);
    }
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |dir| workspace.join(dir));
    let release = target.join("release");
    Ok(Binaries { agent: release.join("umbilical-agent"), cloud: release.join("umbilical-cloud") })
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
