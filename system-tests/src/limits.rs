//! Limits of this process, which its children inherit.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process and its children hold `files` open files.
///
/// # Panics
/// The system's hard limit is lower.
pub fn raise_open_files(files: u64) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("every process may ask");
    assert!(
        hard >= files,
        "this test needs {files} open files; the hard limit is {hard}: raise it with `ulimit -Hn {files}` as root"
    );
    if soft < files {
        setrlimit(Resource::RLIMIT_NOFILE, files, hard).expect("up to the hard limit everybody may");
    }
}
