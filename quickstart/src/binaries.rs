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
    let status = Command::new(cargo)
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
