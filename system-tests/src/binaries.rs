//! The binaries under test, as the release profile builds them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// `umbilical-agent`, built from this work tree.
///
/// # Panics
/// The build fails.
pub fn agent() -> PathBuf {
    release_folder().join("umbilical-agent")
}

/// `umbilical-cloud`, built from this work tree.
///
/// # Panics
/// The build fails.
pub fn cloud() -> PathBuf {
    release_folder().join("umbilical-cloud")
}

/// `umbilical-quickstart`, built from this work tree.
///
/// # Panics
/// The build fails.
pub fn quickstart() -> PathBuf {
    release_folder().join("umbilical-quickstart")
}

/// Builds once for each test process; nothing to do takes cargo a tenth of a second.
fn release_folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace");
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let packages = ["umbilical-agent", "umbilical-cloud", "umbilical-quickstart"];
        let output = Command::new(cargo)
            .current_dir(workspace)
            .args(["build", "--locked", "--release"])
            .args(packages.iter().flat_map(|package| ["--package", package]))
            .output()
            .expect("cargo can be started");
        assert!(output.status.success(), "the release build failed:\n{}", String::from_utf8_lossy(&output.stderr));
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |dir| workspace.join(dir));
        target.join("release")
    })
}
