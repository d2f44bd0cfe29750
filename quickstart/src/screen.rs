//! What is printed: lines, and below them, on a terminal, one line that changes.

use std::io::{self, IsTerminal, Write};

use crate::{
    binaries::Binaries,
    error::Error,
    plan::{DEVICE, Plan},
    status::{Link, Status},
};

/// Standard output.
pub(crate) struct Screen {
    terminal: bool,
    status_shown: bool,
    last_link: Option<Option<Link>>,
}

impl Screen {
    pub(crate) fn new() -> Screen {
        Screen { terminal: io::stdout().is_terminal(), status_shown: false, last_link: None }
    }

    /// One line, or several.
    pub(crate) fn say(&mut self, text: &str) {
        self.end_status();
        print(&format!("{text}\n"));
    }

    /// A reason to end.
    pub(crate) fn complain(&mut self, error: &Error) {
        self.end_status();
        // Nobody is left to be told if this fails.
        let _ = writeln!(io::stderr(), "quickstart: {error}");
    }

    /// What to try now.
    pub(crate) fn explain(&mut self, plan: &Plan, binaries: &Binaries, agent: u32) {
        let (cloud, folder) = (binaries.cloud.display(), plan.folder.display());
        let ssh = match &plan.ssh {
            Some(ssh) => format!(
                "  ssh -p {} $USER@127.0.0.1
  ssh -o ProxyCommand='{cloud} connect {DEVICE} ssh --config {folder}/cloud.toml' $USER@{DEVICE}\n",
                ssh.exposure.port()
            ),
            None => "  (no SSH server on 127.0.0.1:22; with one, it would be here as well)\n".to_owned(),
        };
        self.say(&format!(
            "
  curl, ssh -> 127.0.0.1:{} -> umbilical-cloud <== one WebSocket, TLS == umbilical-agent -> {}

Try, in another terminal:

  curl http://{}/
{ssh}  edit {folder}/agent.toml, then: kill -HUP {agent}

Logs are in {folder}. Ctrl-C ends everything.
",
            plan.page_exposure.port(),
            plan.page,
            plan.page_exposure
        ));
    }

    /// The figures: in place on a terminal; elsewhere a line when the link comes or goes.
    pub(crate) fn show_status(&mut self, status: &Status) {
        if self.terminal {
            self.status_shown = true;
            print(&format!("\r\x1b[K{status}"));
        } else if self.last_link != Some(status.link()) {
            self.last_link = Some(status.link());
            print(&format!("{status}\n"));
        }
    }

    /// Leaves the changing line as it is and goes on below.
    pub(crate) fn end_status(&mut self) {
        if self.status_shown {
            self.status_shown = false;
            print("\n");
        }
    }
}

/// Output that nobody reads any more (`cargo quickstart | head`) is no reason to leave children behind.
fn print(text: &str) {
    let mut output = io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}
