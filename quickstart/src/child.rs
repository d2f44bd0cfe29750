//! One of the two programs, running.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use smol::{Timer, future, process};

use crate::{error::Error, plan::Plan};

/// Longer than the programs' own limit for open streams to finish.
const STOP_WITHIN: Duration = Duration::from_secs(15);
const LAST_LINES: usize = 15;

/// A started program whose output goes to a log file.
pub(crate) struct Child {
    name: &'static str,
    child: process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts a program; the configuration file named after it is its last argument.
    pub(crate) fn start(name: &'static str, program: &Path, arguments: &[&str], plan: &Plan) -> Result<Child, Error> {
        let log = plan.path(&format!("{name}.log"));
        let failed = |error| Error::File { path: log.clone(), error };
        let output = File::create(&log).map_err(failed)?;
        let errors = output.try_clone().map_err(failed)?;
        let mut command = std::process::Command::new(program);
        command.args(arguments).arg(plan.path(&format!("{name}.toml")));
        // Ctrl-C is for this process; it tells its children in its own order.
        command.process_group(0);
        let mut command = process::Command::from(command);
        // Only what is said here counts: the conversion forgets what was said before it.
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        command.kill_on_drop(true);
        let child = command.spawn().map_err(|error| Error::Start { program: program.to_path_buf(), error })?;
        Ok(Child { name, child, log })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends only if the program does: that is never what was wanted.
    pub(crate) async fn died(&mut self) -> Result<(), Error> {
        let how = match self.child.status().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        let written = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = written.lines().collect();
        let last_lines = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
        Err(Error::Died { name: self.name, how, log: self.log.clone(), last_lines })
    }

    /// Asks it to end and waits; kills it if it takes too long.
    pub(crate) async fn stop(&mut self) {
        if matches!(self.child.try_status(), Ok(Some(_))) {
            return;
        }
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ = signal::kill(Pid::from_raw(id), Signal::SIGTERM);
        }
        let ended = async { self.child.status().await.is_ok() };
        let too_long = async {
            Timer::after(STOP_WITHIN).await;
            false
        };
        if !future::or(ended, too_long).await {
            let _ = self.child.kill();
            let _ = self.child.status().await;
        }
    }
}
