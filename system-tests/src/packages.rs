//! Programs that come from npm and PyPI instead of Debian: installed once, below `target/`, in the versions that their
//! folder below `packages/` names.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{binaries, process, programs};

/// A slow mirror is no failure.
const INSTALL_WITHIN: Duration = Duration::from_secs(600);

/// The folder with the npm package of `packages/NAME` and all it needs.
///
/// # Panics
/// npm is absent, or fails.
pub fn npm(name: &str) -> PathBuf {
    install(name, "package-lock.json", |folder| {
        let mut npm = Command::new(programs::find("npm"));
        npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(folder);
        npm
    })
}

/// The folder to put on `PYTHONPATH` for the packages of `packages/NAME`; the scripts of that folder lie in it, too.
///
/// # Panics
/// pip is absent, or fails.
pub fn pip(name: &str) -> PathBuf {
    install(name, "requirements.txt", |folder| {
        let mut pip = Command::new(programs::find("python3"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade", "--target", "."]);
        pip.args(["--requirement", "requirements.txt"]).current_dir(folder);
        pip
    })
}

/// Copies the folder and installs what `lock` says, unless that was done before. Two tests may come here at once: the
/// second waits for the first.
fn install(name: &str, lock: &str, command: impl FnOnce(&Path) -> Command) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("packages").join(name);
    let folder = binaries::target().join("test-packages").join(name);
    fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let turn = fs::File::create(folder.join("lock")).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    turn.lock().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let entries = fs::read_dir(&source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    for entry in entries.flatten() {
        let copied = fs::copy(entry.path(), folder.join(entry.file_name()));
        copied.unwrap_or_else(|error| panic!("{}: {error}", entry.path().display()));
    }
    let wanted = fs::read(source.join(lock)).unwrap_or_else(|error| panic!("{name}/{lock}: {error}"));
    let installed = folder.join("installed");
    if fs::read(&installed).ok().as_ref() != Some(&wanted) {
        process::run(&format!("the installation of {name}"), &mut command(&folder), INSTALL_WITHIN);
        fs::write(&installed, wanted).unwrap_or_else(|error| panic!("{}: {error}", installed.display()));
    }
    folder
}
