//! Files to be transferred.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::process;

/// A folder for one test's files; gone with it.
pub struct Folder(TempDir);

impl Folder {
    /// An empty one.
    ///
    /// # Panics
    /// The system has no place for temporary files.
    #[expect(clippy::new_without_default, reason = "it makes a folder: nothing that should happen by default")]
    pub fn new() -> Folder {
        Folder(TempDir::new().expect("a temporary folder"))
    }

    /// The path of a file in it, to be used as an argument.
    ///
    /// # Panics
    /// The folder for temporary files has a name that is not UTF-8.
    pub fn path(&self, name: &str) -> String {
        let path = self.0.path().join(name);
        path.into_os_string().into_string().expect("the folder for temporary files has a name in UTF-8")
    }
}

/// Makes a file of random bytes.
///
/// # Panics
/// It can't be written.
pub fn make_random(path: &str, length: u64) {
    let random = File::open("/dev/urandom").expect("the system has randomness");
    let mut file = File::create(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    io::copy(&mut random.take(length), &mut file).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// The SHA-256 of a file, in hexadecimal.
///
/// # Panics
/// It can't be read.
pub fn sha256(path: &str) -> String {
    let output = process::run("sha256sum", Command::new("sha256sum").arg(path), Duration::from_secs(600));
    output.split_whitespace().next().unwrap_or_else(|| panic!("sha256sum said {output:?}")).to_owned()
}

/// The length of a file in bytes.
///
/// # Panics
/// There is none.
pub fn length(path: &str) -> u64 {
    Path::new(path).metadata().unwrap_or_else(|error| panic!("{path}: {error}")).len()
}
