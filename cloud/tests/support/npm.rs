//! Microsoft's published clients, unmodified, in scripts of `interop/`. Needs `node` and `npm`; the packages come from the
//! npm registry at the first run, in the versions of the lock file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use smol::io::{AsyncBufReadExt, BufReader, Lines};
use smol::process::{Child, ChildStdout, Stdio};
use smol::stream::StreamExt;

use super::{TestRelay, certificate};

/// A folder with the scripts and what they need.
fn folder() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(scripts).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        // npm leaves this file when it is done
        let lock = fs::read(folder.join("package-lock.json")).unwrap();
        let installed = folder.join("installed-package-lock.json");
        if fs::read(&installed).ok().as_deref() != Some(&lock) {
            let mut npm = Command::new("npm");
            npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&folder);
            let output = npm.output().expect("these tests need npm: apt-get install npm");
            assert!(output.status.success(), "npm ci failed: {}", String::from_utf8_lossy(&output.stderr));
            fs::write(installed, lock).unwrap();
        }
        folder
    });
    &FOLDER
}

/// A script that runs, and what it tells.
pub(crate) struct Script {
    _process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    pub(crate) fn start(script: &str, arguments: &[&str]) -> Self {
        let mut process = smol::process::Command::new("node")
            .arg(folder().join(script))
            .args(arguments)
            .env("NODE_EXTRA_CA_CERTS", &certificate().file)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("these tests need node: apt-get install nodejs");
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { _process: process, lines }
    }

    /// A hyco-ws listener of `device` that echoes, once it is registered.
    pub(crate) async fn listener(relay: &TestRelay) -> Self {
        Self::listening("listener.js", relay).await
    }

    /// A hyco-https listener of `device`, once it is registered.
    pub(crate) async fn https_listener(relay: &TestRelay) -> Self {
        Self::listening("https-listener.js", relay).await
    }

    async fn listening(script: &str, relay: &TestRelay) -> Self {
        let mut script = Self::start(script, &[&uri(relay, "device", "listen"), "listen", "key of listen"]);
        assert_eq!(script.told().await, r#"{"event":"listening"}"#);
        script
    }

    /// A hyco-ws sender to `device`.
    pub(crate) fn sender(relay: &TestRelay, key: &str, more: &[&str]) -> Self {
        Self::start("sender.js", &[&[uri(relay, "device", "connect").as_str(), "send", key], more].concat())
    }

    /// The next line.
    pub(crate) async fn told(&mut self) -> String {
        self.lines.next().await.expect("the script says more").unwrap()
    }

    /// Whether the script has ended.
    pub(crate) async fn ended(&mut self) -> bool {
        self.lines.next().await.is_none()
    }

    /// What a sender tells whose every word came back.
    pub(crate) async fn heard_everything(&mut self, protocol: &str) {
        assert_eq!(self.told().await, format!(r#"{{"event":"open","protocol":"{protocol}"}}"#));
        for bytes in [7, 100_000, 0] {
            assert_eq!(self.told().await, format!(r#"{{"event":"message","bytes":{bytes},"same":true}}"#));
        }
        assert_eq!(self.told().await, r#"{"event":"close","code":4321,"reason":"that was it"}"#);
    }
}

/// By hand: the packages' own helpers know no port but 443.
pub(crate) fn uri(relay: &TestRelay, path: &str, action: &str) -> String {
    format!("wss://localhost:{}/$hc/{path}?sb-hc-action={action}", relay.address.port())
}
