//! The command line.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use lexopt::ValueExt as _;
use umbilical_cloud::config::ListenerKind;
use umbilical_relay_protocol::{AddressError, RelayUrl};

pub(crate) const HELP: &str = "\
Gives the cloud a way to the ports of devices that nobody can dial.

Usage:
  umbilical-cloud run --config FILE
      Serve: the relay, the gateway and its public ports.

  umbilical-cloud check --config FILE
      Check the configuration and the files it names.

  umbilical-cloud connect DEVICE SERVICE --config FILE
  umbilical-cloud connect DEVICE SERVICE --relay URL --key-name NAME --key-file FILE [--ca-file FILE]
  umbilical-cloud connect DEVICE SERVICE --connection-string-file FILE [--ca-file FILE]
      Join standard input and output with a device's service. For OpenSSH:
      ssh -o ProxyCommand='umbilical-cloud connect %h ssh --config /etc/umbilical/cloud.toml' user@gateway-0042
      With --plain or --azbridge to a device whose listener is no umbilical agent.

  umbilical-cloud token --key-name NAME --key-file FILE (--relay URL | --resource TEXT) [--hours N]
  umbilical-cloud token --connection-string-file FILE [--resource TEXT] [--hours N]
      Print a token (shared access signature), by default good for an hour.

Options:
  --config FILE    configuration, TOML
  --relay URL      wss://HOST[:PORT] or sb://NAMESPACE.servicebus.windows.net; with /DEVICE for a token that is good
                   for one device only
  --connection-string-file FILE
                   file that holds a connection string, as Azure's portal shows it: relay, key and perhaps device in one
  --key-name NAME  name of a shared access key
  --key-file FILE  file that holds the key
  --ca-file FILE   the relay's certificate authority, PEM (default: the system's)
  --plain          the listener gets bytes and nothing else; SERVICE is only for messages
  --azbridge       the listener is azbridge; SERVICE is the name of its port
  --resource TEXT  what the token is for, word for word
  --hours N        how long the token is good, 1 to 87600
  --version        print the version and exit
  --help           print this and exit

Signals of `run`: SIGTERM finishes (a second one: at once), SIGHUP reads the configuration again.
UMBILICAL_LOG sets what is logged: error, warn, info (default of `run`), debug or trace.
Exit codes: 0 done, 1 failed while running, 2 not started: arguments or configuration are wrong; of `connect` also:
3 the device is not connected, 4 it has no such service, 5 the service does not answer, 6 the relay does not take the
key, 7 the relay was not reached.
";

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Wish {
    Run { config: PathBuf },
    Check { config: PathBuf },
    Connect { device: String, service: String, listener: ListenerKind, by: By },
    Token(Token),
    Version,
    Help,
}

/// How `connect` finds the relay.
#[derive(Debug, PartialEq)]
pub(crate) enum By {
    Config(PathBuf),
    Relay { relay: RelayUrl, key_name: String, key_file: PathBuf, ca_file: Option<PathBuf> },
    ConnectionString { file: PathBuf, ca_file: Option<PathBuf> },
}

/// A token to mint.
#[derive(Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) from: TokenSource,
    pub(crate) hours: u32,
}

/// What a token is signed with, and for.
#[derive(Debug, PartialEq)]
pub(crate) enum TokenSource {
    Key {
        name: String,
        file: PathBuf,
        resource: String,
    },
    /// For the relay or device of the string unless `resource` says otherwise.
    ConnectionString {
        file: PathBuf,
        resource: Option<String>,
    },
}

#[derive(Default)]
struct Options {
    config: Option<PathBuf>,
    relay: Option<RelayUrl>,
    connection_string_file: Option<PathBuf>,
    resource: Option<String>,
    key_name: Option<String>,
    key_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    hours: Option<u32>,
    plain: bool,
    azbridge: bool,
}

pub(crate) fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Wish, ArgumentError> {
    use lexopt::Arg::{Long, Short, Value};
    let mut parser = lexopt::Parser::from_args(arguments);
    let mut words = Vec::new();
    let mut options = Options::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("config") | Short('c') => options.config = Some(parser.value()?.into()),
            Long("relay") => options.relay = Some(RelayUrl::parse(&parser.value()?.string()?)?),
            Long("connection-string-file") => options.connection_string_file = Some(parser.value()?.into()),
            Long("resource") => options.resource = Some(parser.value()?.string()?),
            Long("key-name") => options.key_name = Some(parser.value()?.string()?),
            Long("key-file") => options.key_file = Some(parser.value()?.into()),
            Long("ca-file") => options.ca_file = Some(parser.value()?.into()),
            Long("hours") => options.hours = Some(parser.value()?.parse()?),
            Long("plain") => options.plain = true,
            Long("azbridge") => options.azbridge = true,
            Long("version") | Short('V') => return Ok(Wish::Version),
            Long("help") | Short('h') => return Ok(Wish::Help),
            Value(word) => words.push(word.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let mut words = words.into_iter();
    let command = words.next().ok_or(ArgumentError::NoCommand)?;
    let wish = match command.as_str() {
        "run" => options.run(),
        "check" => options.check(),
        "connect" => {
            let device = words.next().ok_or(ArgumentError::Missing("DEVICE"))?;
            options.connect(device, words.next().ok_or(ArgumentError::Missing("SERVICE"))?)
        }
        "token" => options.token(),
        _ => return Err(ArgumentError::UnknownCommand(command)),
    };
    match words.next() {
        Some(word) => Err(ArgumentError::OneTooMany(word)),
        None => wish,
    }
}

impl Options {
    fn run(mut self) -> Result<Wish, ArgumentError> {
        let config = self.config()?;
        self.nothing_else("run")?;
        Ok(Wish::Run { config })
    }

    fn check(mut self) -> Result<Wish, ArgumentError> {
        let config = self.config()?;
        self.nothing_else("check")?;
        Ok(Wish::Check { config })
    }

    fn connect(mut self, device: String, service: String) -> Result<Wish, ArgumentError> {
        let by = match (self.config.take(), self.relay.take(), self.connection_string_file.take()) {
            (Some(config), None, None) => By::Config(config),
            (None, None, Some(file)) => By::ConnectionString { file, ca_file: self.ca_file.take() },
            (None, Some(relay), None) if relay.path().is_empty() => {
                let (key_name, key_file) = self.key()?;
                By::Relay { relay, key_name, key_file, ca_file: self.ca_file.take() }
            }
            (None, Some(_), None) => return Err(ArgumentError::RelayWithPath),
            (Some(_), Some(_), _) => return Err(ArgumentError::Both("--config", "--relay")),
            (Some(_), _, Some(_)) => return Err(ArgumentError::Both("--config", "--connection-string-file")),
            (_, Some(_), Some(_)) => return Err(ArgumentError::Both("--relay", "--connection-string-file")),
            (None, None, None) => {
                return Err(ArgumentError::Missing("--config FILE, --relay URL or --connection-string-file FILE"));
            }
        };
        let listener = match (std::mem::take(&mut self.plain), std::mem::take(&mut self.azbridge)) {
            (true, true) => return Err(ArgumentError::Both("--plain", "--azbridge")),
            (true, false) => ListenerKind::Plain,
            (false, true) => ListenerKind::Azbridge(service.as_str().into()),
            (false, false) => ListenerKind::Agent,
        };
        self.nothing_else("connect")?;
        Ok(Wish::Connect { device, service, listener, by })
    }

    fn token(mut self) -> Result<Wish, ArgumentError> {
        let from = match self.connection_string_file.take() {
            Some(file) => TokenSource::ConnectionString { file, resource: self.resource.take() },
            None => {
                let (name, file) = self.key()?;
                let resource = match (self.relay.take(), self.resource.take()) {
                    (Some(relay), None) => relay.resource(),
                    (None, Some(resource)) => resource,
                    (Some(_), Some(_)) => return Err(ArgumentError::Both("--relay", "--resource")),
                    (None, None) => return Err(ArgumentError::Missing("--relay URL or --resource TEXT")),
                };
                TokenSource::Key { name, file, resource }
            }
        };
        let hours = self.hours.take().unwrap_or(1);
        if !(1..=87_600).contains(&hours) {
            return Err(ArgumentError::Hours(hours));
        }
        self.nothing_else("token")?;
        Ok(Wish::Token(Token { from, hours }))
    }

    fn config(&mut self) -> Result<PathBuf, ArgumentError> {
        self.config.take().ok_or(ArgumentError::Missing("--config FILE"))
    }

    fn key(&mut self) -> Result<(String, PathBuf), ArgumentError> {
        let name = self.key_name.take().ok_or(ArgumentError::Missing("--key-name NAME"))?;
        Ok((name, self.key_file.take().ok_or(ArgumentError::Missing("--key-file FILE"))?))
    }

    /// Options that the command has no use for are mistakes.
    fn nothing_else(&self, command: &'static str) -> Result<(), ArgumentError> {
        let left = [
            ("--config", self.config.is_some()),
            ("--relay", self.relay.is_some()),
            ("--connection-string-file", self.connection_string_file.is_some()),
            ("--resource", self.resource.is_some()),
            ("--key-name", self.key_name.is_some()),
            ("--key-file", self.key_file.is_some()),
            ("--ca-file", self.ca_file.is_some()),
            ("--hours", self.hours.is_some()),
            ("--plain", self.plain),
            ("--azbridge", self.azbridge),
        ];
        match left.iter().find(|(_, given)| *given) {
            Some((option, _)) => Err(ArgumentError::Useless { command, option }),
            None => Ok(()),
        }
    }
}

/// A command line that asks for nothing we do.
#[derive(Debug)]
pub(crate) enum ArgumentError {
    NoCommand,
    UnknownCommand(String),
    OneTooMany(String),
    Missing(&'static str),
    Both(&'static str, &'static str),
    Useless { command: &'static str, option: &'static str },
    RelayWithPath,
    Hours(u32),
    Address(AddressError),
    Syntax(lexopt::Error),
}

impl From<lexopt::Error> for ArgumentError {
    fn from(error: lexopt::Error) -> Self {
        Self::Syntax(error)
    }
}

impl From<AddressError> for ArgumentError {
    fn from(error: AddressError) -> Self {
        Self::Address(error)
    }
}

impl fmt::Display for ArgumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCommand => f.write_str("a command is missing: run, check, connect or token"),
            Self::UnknownCommand(word) => write!(f, "unknown command {word:?}, expected run, check, connect or token"),
            Self::OneTooMany(word) => write!(f, "{word:?} is one argument too many"),
            Self::Missing(what) => write!(f, "{what} is missing"),
            Self::Both(one, other) => write!(f, "{one} and {other} exclude each other"),
            Self::Useless { command, option } => write!(f, "`{command}` has no use for {option}"),
            Self::RelayWithPath => {
                f.write_str("--relay: the device is an argument of its own, write the URL without a path")
            }
            Self::Hours(hours) => write!(f, "--hours: expected 1 to 87600, found {hours}"),
            Self::Address(error) => write!(f, "--relay: {error}"),
            Self::Syntax(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_line(line: &str) -> Result<Wish, String> {
        parse(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn each_command_has_its_options() {
        assert_eq!(parse_line("run --config a.toml"), Ok(Wish::Run { config: "a.toml".into() }));
        assert_eq!(parse_line("check -c a.toml"), Ok(Wish::Check { config: "a.toml".into() }));
        for (option, listener) in [
            ("", ListenerKind::Agent),
            ("--plain", ListenerKind::Plain),
            ("--azbridge", ListenerKind::Azbridge("ssh".into())),
        ] {
            let by = By::Config("a.toml".into());
            assert_eq!(
                parse_line(&format!("connect d ssh --config a.toml {option}")),
                Ok(Wish::Connect { device: "d".into(), service: "ssh".into(), listener, by })
            );
        }
        let relay = RelayUrl::parse("wss://r:8443").unwrap();
        let by = By::Relay { relay, key_name: "k".into(), key_file: "f".into(), ca_file: Some("ca".into()) };
        assert_eq!(
            parse_line("connect d ssh --relay wss://r:8443 --key-name k --key-file f --ca-file ca"),
            Ok(Wish::Connect { device: "d".into(), service: "ssh".into(), listener: ListenerKind::Agent, by })
        );
        let token = |resource: &str, hours| {
            let from = TokenSource::Key { name: "k".into(), file: "f".into(), resource: resource.into() };
            Ok(Wish::Token(Token { from, hours }))
        };
        assert_eq!(parse_line("token --key-name k --key-file f --relay sb://n/dev"), token("http://n/dev/", 1));
        assert_eq!(parse_line("token --key-name k --key-file f --resource x --hours 24"), token("x", 24));
        let by = By::ConnectionString { file: "f".into(), ca_file: None };
        assert_eq!(
            parse_line("connect d ssh --connection-string-file f"),
            Ok(Wish::Connect { device: "d".into(), service: "ssh".into(), listener: ListenerKind::Agent, by })
        );
        let by_string = |resource: Option<&str>| {
            let from = TokenSource::ConnectionString { file: "f".into(), resource: resource.map(str::to_owned) };
            Ok(Wish::Token(Token { from, hours: 1 }))
        };
        assert_eq!(parse_line("token --connection-string-file f"), by_string(None));
        assert_eq!(parse_line("token --connection-string-file f --resource x"), by_string(Some("x")));
        assert_eq!(parse_line("--version"), Ok(Wish::Version));
        assert_eq!(parse_line("run --help"), Ok(Wish::Help));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, words) in [
            ("", "a command is missing"),
            ("walk", "unknown command \"walk\""),
            ("run", "--config FILE is missing"),
            ("run --config a b", "\"b\" is one argument too many"),
            ("run --config a --hours 3", "`run` has no use for --hours"),
            ("run --verbose", "--verbose"),
            ("run --config a --plain", "`run` has no use for --plain"),
            ("connect d s --config a --plain --azbridge", "--plain and --azbridge exclude each other"),
            ("connect", "DEVICE is missing"),
            ("connect d", "SERVICE is missing"),
            ("connect d s", "--config FILE, --relay URL or --connection-string-file FILE is missing"),
            ("connect d s --relay wss://r --connection-string-file f", "exclude each other"),
            ("connect d s --connection-string-file f --key-name k", "`connect` has no use for --key-name"),
            ("token --connection-string-file f --relay wss://r", "`token` has no use for --relay"),
            ("connect d s --config a --relay wss://r", "exclude each other"),
            ("connect d s --relay wss://r", "--key-name NAME is missing"),
            ("connect d s --relay wss://r/d --key-name k --key-file f", "without a path"),
            ("connect d s --relay http://r", "--relay: the address must begin with wss://"),
            ("token --key-name k", "--key-file FILE is missing"),
            ("token --key-name k --key-file f", "--relay URL or --resource TEXT is missing"),
            ("token --key-name k --key-file f --resource x --hours 0", "--hours: expected 1 to 87600, found 0"),
            ("token --key-name k --key-file f --resource x --hours soon", "soon"),
        ] {
            let error = parse_line(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
    }
}
