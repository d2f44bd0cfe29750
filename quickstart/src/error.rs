//! What can go wrong, and what to do then.

use std::{fmt, io, path::PathBuf};

/// A reason to end.
#[derive(Debug)]
pub(crate) enum Error {
    /// The command line.
    Usage(lexopt::Error),
    /// Signals can't be caught.
    Signals(io::Error),
    /// Cargo can't be started.
    NoCargo(io::Error),
    /// Cargo has said why.
    Build,
    /// Not even a port that the system chooses.
    Port(io::Error),
    /// The folder for all files.
    Folder { folder: PathBuf, error: io::Error },
    /// The folder holds something else.
    ForeignFolder(PathBuf),
    /// One file.
    File { path: PathBuf, error: io::Error },
    /// A certificate can't be made.
    Certificate(rcgen::Error),
    /// The system has no randomness.
    Randomness,
    /// A program can't be started.
    Start { program: PathBuf, error: io::Error },
    /// A program ended by itself.
    Died { name: &'static str, how: String, log: PathBuf, last_lines: String },
    /// Both run, and nothing comes through.
    NoPage { folder: PathBuf, error: io::Error },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(error) => write!(f, "{error}; see cargo quickstart --help"),
            Error::Signals(error) => write!(f, "can't wait for Ctrl-C: {error}"),
            Error::NoCargo(error) => write!(f, "can't start cargo: {error}; is it on PATH?"),
            Error::Build => write!(f, "the build failed, see above; a C compiler (cc) is needed besides Rust"),
            Error::Port(error) => write!(f, "can't listen on 127.0.0.1 at all: {error}"),
            Error::Folder { folder, error } => {
                write!(f, "can't make {}: {error}; choose another place with --dir", folder.display())
            }
            Error::ForeignFolder(folder) => write!(
                f,
                "{} holds files that are not an earlier quickstart's; choose an empty or new folder with --dir",
                folder.display()
            ),
            Error::File { path, error } => write!(f, "can't write {}: {error}", path.display()),
            Error::Certificate(error) => write!(f, "can't make a certificate: {error}"),
            Error::Randomness => write!(f, "the system gives no random bytes"),
            Error::Start { program, error } => write!(f, "can't start {}: {error}", program.display()),
            Error::Died { name, how, log, last_lines } => write!(
                f,
                "the {name} ended by itself ({how}); its last words, from {}:\n\n{last_lines}\n\n\
                 If you edited its file, that is the place to look; another start writes it anew.",
                log.display()
            ),
            Error::NoPage { folder, error } => write!(
                f,
                "both programs run, but the device's page does not come through: {error}; see agent.log and cloud.log in {}",
                folder.display()
            ),
        }
    }
}

impl std::error::Error for Error {}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Error {
        Error::Certificate(error)
    }
}
