//! The files a user can read and keep.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::{
    credentials::{Certificates, shared_access_key},
    error::Error,
    plan::{DEVICE, Plan},
};

/// The first line of both files, by which an earlier run's folder is known.
const HEADER: &str = "# Written by `cargo quickstart` at each start: copy it before you keep changes.";

/// Makes the folder of all files and returns its absolute path.
///
/// # Errors
/// It can't be made, or holds something that is not an earlier run's: nothing of that is ever overwritten.
pub(crate) fn claim(folder: &Path) -> Result<PathBuf, Error> {
    let failed = |error| Error::Folder { folder: folder.to_path_buf(), error };
    fs::create_dir_all(folder).map_err(failed)?;
    let folder = fs::canonicalize(folder).map_err(failed)?;
    if is_ours(&folder) { Ok(folder) } else { Err(Error::ForeignFolder(folder)) }
}

/// Writes keys, certificates and both configuration files.
pub(crate) fn write(plan: &Plan) -> Result<(), Error> {
    let certificates = Certificates::make()?;
    for (name, content) in [
        ("ca.pem", certificates.authority),
        ("relay.pem", certificates.relay),
        ("relay.key", certificates.relay_key),
        ("demo.key", shared_access_key()?),
        ("operator.key", shared_access_key()?),
        ("agent.toml", agent_toml(plan)),
        ("cloud.toml", cloud_toml(plan)),
    ] {
        let path = plan.path(name);
        write_private(&path, &content).map_err(|error| Error::File { path, error })?;
    }
    Ok(())
}

/// Empty, or written by an earlier run.
fn is_ours(folder: &Path) -> bool {
    let empty = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none());
    empty || fs::read_to_string(folder.join("agent.toml")).is_ok_and(|text| text.starts_with(HEADER))
}

/// For its owner only, from its first byte on.
fn write_private(path: &Path, content: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(content.as_bytes())
}

fn agent_toml(plan: &Plan) -> String {
    let folder = plan.folder.display();
    let (relay, page) = (plan.relay.port(), plan.page);
    let mut text = format!(
        r#"{HEADER}
# The device side: umbilical-agent --config agent.toml

[relay]
# Where to meet: a relay, and this device's name there. One outgoing connection, nothing listens on the device.
url = "wss://localhost:{relay}/{DEVICE}"
# Who may be the relay. Left out: whoever the system's certificate authorities vouch for.
ca-file = "{folder}/ca.pem"

[relay.auth]
# The device proves itself with a shared access key that is good for listening at its own name and for nothing else.
key-name = "listen"
key-file = "{folder}/demo.key"

# What can be reached on this device. What is not here does not exist.
[services.page]
target = "tcp:{page}"
"#
    );
    if let Some(ssh) = &plan.ssh {
        text += &format!("\n[services.ssh]\ntarget = \"tcp:{}\"\n", ssh.target);
    }
    text += r#"
# Another one? Take away the two number signs, add an exposure to cloud.toml, and send both programs SIGHUP.
#[services.echo]
#target = "tcp:127.0.0.1:7"
"#;
    text
}

fn cloud_toml(plan: &Plan) -> String {
    let folder = plan.folder.display();
    let (relay, admin) = (plan.relay, plan.admin);
    let mut text = format!(
        r#"{HEADER}
# The cloud side: umbilical-cloud run --config cloud.toml

# The relay that devices connect to, in this very process. Leave it out to use Azure Relay or a relay elsewhere.
[relay]
listen = "{relay}"
certificate-file = "{folder}/relay.pem"
key-file = "{folder}/relay.key"

# Who may dial devices.
[relay.keys.operator]
secret-file = "{folder}/operator.key"
rights = ["send"]

# A device, and the key it listens with.
[relay.hybrid-connections.{DEVICE}.keys.listen]
secret-file = "{folder}/demo.key"
rights = ["listen"]

[gateway]
relay = "embedded"

# Figures for people and monitoring.
[admin]
listen = "{admin}"
"#
    );
    let ssh = plan.ssh.as_ref().map(|ssh| ("ssh", ssh.exposure));
    for (service, listen) in [("page", plan.page_exposure)].into_iter().chain(ssh) {
        text += &format!(
            "\n# A public port, and the device's service behind it.\n[[gateway.expose]]\nlisten = \"{listen}\"\ndevice = \"{DEVICE}\"\nservice = \"{service}\"\n"
        );
    }
    text
}
