//! OpenSSH's server, and its clients told how to reach it.

use std::{fs, net::SocketAddrV4, path::PathBuf, process::Command, time::Duration};

use nix::unistd::{User, getuid};
use tempfile::TempDir;

use super::{find, text};
use crate::{
    ports,
    process::{self, Process},
    wait,
};

/// Under this name the clients know the server's host key, whatever address they reach it by.
const HOST: &str = "device";

/// A running sshd that lets in whoever runs the test, by a key made for this test.
pub struct Sshd {
    /// Where it listens.
    pub address: SocketAddrV4,
    user: String,
    _process: Process,
    folder: TempDir,
}

impl Sshd {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// It does not start.
    pub fn start() -> Sshd {
        let folder = TempDir::new().expect("a temporary folder");
        let path = |name: &str| text(&folder.path().join(name)).to_owned();
        for key in ["host-key", "user-key"] {
            let mut keygen = Command::new(find("ssh-keygen"));
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", key, "-f", &path(key)]);
            process::run("ssh-keygen", &mut keygen, wait::SOON);
        }
        let host_key = fs::read_to_string(path("host-key.pub")).expect("ssh-keygen wrote it");
        fs::write(path("known-hosts"), format!("{HOST} {host_key}")).expect("the folder is ours");
        if getuid().is_root() {
            // Where a privileged sshd locks up its unprivileged half; the service's unit would make it.
            fs::create_dir_all("/run/sshd").expect("root may make /run/sshd");
        }
        let address = ports::free();
        let configuration = format!(
            "ListenAddress {address}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             PrintMotd no\nPrintLastLog no\nMaxStartups 100\nSubsystem sftp internal-sftp\n",
            path("host-key"),
            path("user-key.pub"),
        );
        fs::write(path("sshd-config"), configuration).expect("the folder is ours");
        let process = Process::start("sshd", Command::new(find("sshd")).args(["-D", "-e", "-f", &path("sshd-config")]));
        process.line_with(&["Server listening on"], wait::SOON);
        let user = User::from_uid(getuid()).ok().flatten().expect("whoever runs the test has a name").name;
        Sshd { address, folder, user, _process: process }
    }

    /// `ssh` to this server by way of `address`; options and the remote command may be added.
    pub fn ssh(&self, address: SocketAddrV4) -> Command {
        let mut ssh = self.client("ssh");
        ssh.args(["-p", &address.port().to_string(), &format!("{}@{}", self.user, address.ip())]);
        ssh
    }

    /// `ssh` to this server through whatever `proxy_command` connects its standard input and output to.
    pub fn ssh_by_proxy_command(&self, proxy_command: &str) -> Command {
        let mut ssh = self.client("ssh");
        ssh.args(["-o", &format!("ProxyCommand={proxy_command}"), &format!("{}@{HOST}", self.user)]);
        ssh
    }

    /// Copies one file with `scp`; `remote` says which of the two is the server's.
    pub fn scp(&self, address: SocketAddrV4, from: &str, to: &str, remote: Remote) -> Command {
        self.scp_with(&[], address, from, to, remote)
    }

    /// The same with options of `scp`.
    pub fn scp_with(&self, options: &[&str], address: SocketAddrV4, from: &str, to: &str, remote: Remote) -> Command {
        let remote_name = |path: &str| format!("{}@{}:{path}", self.user, address.ip());
        let (from, to) = match remote {
            Remote::Source => (remote_name(from), to.to_owned()),
            Remote::Target => (from.to_owned(), remote_name(to)),
        };
        let mut scp = self.client("scp");
        scp.args(options).args(["-q", "-P", &address.port().to_string(), &from, &to]);
        scp
    }

    fn client(&self, program: &str) -> Command {
        let file = |name: &str| -> PathBuf { self.folder.path().join(name) };
        let mut client = Command::new(find(program));
        // Nothing of whoever runs the test plays a part: no configuration, no agent, no other keys.
        client.args(["-F", "none", "-i", text(&file("user-key"))]).env_remove("SSH_AUTH_SOCK");
        for option in [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=yes",
            &format!("HostKeyAlias={HOST}"),
            &format!("UserKnownHostsFile={}", text(&file("known-hosts"))),
            &format!("ConnectTimeout={}", Duration::from_secs(20).as_secs()),
        ] {
            client.args(["-o", option]);
        }
        client
    }
}

/// Which side of a copy is on the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Remote {
    /// The file is fetched.
    Source,
    /// The file is sent.
    Target,
}
