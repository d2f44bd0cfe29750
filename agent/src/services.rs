//! What this device offers: the allow-list, how many streams each service takes, and dialling them.
//!
//! What is not configured does not exist. The list may be exchanged at any time: streams that are open go on, new ones
//! find the new list.

use std::{
    collections::BTreeMap,
    io,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use log::{debug, warn};
use smol::{Async, Timer, future};
use umbilical_link::{
    Ended, Io, Services, happy_eyeballs,
    paced::Paced,
    port::{OnEnd, reset_reason},
};
use umbilical_mux::{End, Mode, REPORT_SERVICE, ResetReason};

use crate::{
    config::{Service, Target},
    report::Reporter,
    serial::SerialPort,
    udp::{UdpPort, UdpTarget},
};

/// How long a service may take to answer. It is on this device or near it.
const DIAL: Duration = Duration::from_secs(10);

/// The services of this device. One for all sessions.
#[derive(Debug, Default)]
pub struct ServiceTable {
    offered: Mutex<BTreeMap<String, Offered>>,
    refusals: Paced,
}

#[derive(Debug, Clone)]
struct Offered {
    service: Service,
    /// Streams open now, in all sessions; it outlives a change of the list.
    open: Arc<AtomicUsize>,
    /// What is said about its datagrams.
    said: Arc<Paced>,
}

/// A stream that somebody wants.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The service's name.
    pub service: &'a str,
    /// What the stream is to carry.
    pub mode: Mode,
    /// What logs call who wants it.
    pub peer: &'a str,
    /// Silence of datagrams that is no end yet, whatever the service's own `idle-timeout`.
    pub may_be_silent: Duration,
}

impl ServiceTable {
    /// A table of these and no others.
    #[must_use]
    pub fn new(services: &BTreeMap<String, Service>) -> ServiceTable {
        let table = ServiceTable::default();
        table.replace(services);
        table
    }

    /// Offers these and no others from now on. Gives how many are new or different, and how many are gone.
    pub fn replace(&self, services: &BTreeMap<String, Service>) -> (usize, usize) {
        let mut table = self.table();
        let before = table.len();
        table.retain(|name, _| services.contains_key(name));
        let gone = before - table.len();
        let mut changed = 0;
        for (name, service) in services {
            match table.get_mut(name) {
                Some(offered) if offered.service == *service => continue,
                Some(offered) => offered.service = service.clone(),
                None => {
                    let (service, open, said) = (service.clone(), Arc::default(), Arc::default());
                    table.insert(name.clone(), Offered { service, open, said });
                }
            }
            changed += 1;
        }
        (changed, gone)
    }

    /// The service that azbridge's senders mean by a port's name, and what it carries: the only one by any number;
    /// otherwise one of that name, or the one whose target has that TCP port, or with `U` behind it that UDP port. Names
    /// are compared as they are.
    #[must_use]
    pub fn by_port_name(&self, port: &str) -> Option<(String, Mode)> {
        let table = self.table();
        let number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let meant = |(name, offered): (&String, &Offered)| (name.clone(), offered.service.target.mode());
        if let (1, true) = (table.len(), number) {
            return table.iter().next().map(meant);
        }
        if let Some(named) = table.get_key_value(port) {
            return Some(meant(named));
        }
        let is_there = |offered: &Offered| match offered.service.target {
            Target::Tcp { port: there, .. } => there.to_string() == port,
            Target::Udp { port: there, .. } => port.strip_suffix('U').is_some_and(|port| there.to_string() == port),
            Target::Unix(_) | Target::Serial(_) => false,
        };
        let mut there = table.iter().filter(|(_, offered)| is_there(offered));
        match (there.next(), there.next()) {
            (Some(one), None) => Some(meant(one)),
            // of several, none is meant
            _ => None,
        }
    }

    /// Begins to dial what is wanted. Datagrams may be sent to it at once.
    ///
    /// # Errors
    /// [`ResetReason::NOT_ALLOWED`] for what is not offered, [`ResetReason::WRONG_MODE`] for what it does not carry,
    /// [`ResetReason::BUSY`] at the service's limit.
    pub fn dial(&self, wanted: Wanted<'_>) -> Result<(Io, OnEnd), ResetReason> {
        let Wanted { service: name, mode, peer, may_be_silent } = wanted;
        let Some(Offered { service: Service { target, max_streams, idle_timeout }, open, said }) =
            self.table().get(name).cloned()
        else {
            let reason = ResetReason::NOT_ALLOWED;
            let what = format_args!("which is not configured here; to offer it, add [services.{name}]");
            self.refuse(reason, &format_args!("{peer} asked for the service {name:?}, {what}"));
            return Err(reason);
        };
        if target.mode() != mode {
            let asked = if mode == Mode::Datagram {
                "for datagrams, and it takes a stream"
            } else {
                "for a stream, and it takes datagrams"
            };
            self.refuse(ResetReason::WRONG_MODE, &format_args!("{peer} asked service {name} at {target} {asked}"));
            return Err(ResetReason::WRONG_MODE);
        }
        if open.fetch_add(1, Ordering::Relaxed) >= max_streams.unwrap_or(usize::MAX) {
            open.fetch_sub(1, Ordering::Relaxed);
            let most = max_streams.unwrap_or_default();
            self.refuse(
                ResetReason::BUSY,
                &format_args!("{peer} asked for more than the {most} streams of service {name}"),
            );
            return Err(ResetReason::BUSY);
        }
        let name: Arc<str> = name.into();
        let on_end = {
            let (name, open) = (Arc::clone(&name), Arc::clone(&open));
            Box::new(move |ended: &Ended| {
                open.fetch_sub(1, Ordering::Relaxed);
                tell_end(&name, ended);
            })
        };
        let shown = target.to_string();
        match target {
            Target::Udp { host, port } => {
                let target = UdpTarget { service: Arc::clone(&name), host, port, shown, said };
                match UdpPort::open(target, idle_timeout.max(may_be_silent)) {
                    Ok(port) => Ok((Io::Datagrams(Box::new(port)), on_end)),
                    Err(error) => {
                        open.fetch_sub(1, Ordering::Relaxed);
                        let reason = reset_reason(&error);
                        self.refuse(reason, &format_args!("service {name}: no way to its target: {error}"));
                        Err(reason)
                    }
                }
            }
            Target::Tcp { .. } | Target::Unix(_) | Target::Serial(_) => {
                Ok((Io::Dialing(Box::pin(dial(target, name))), on_end))
            }
        }
    }

    /// A peer may ask as often as it likes; the log is not filled with it.
    fn refuse(&self, reason: ResetReason, what: &dyn std::fmt::Display) {
        if let Some(hidden) = self.refusals.admit(reason.0, Instant::now()) {
            warn!("{what}{hidden}");
        }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Offered>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The table as one gateway sees it.
#[derive(Debug, Clone)]
pub struct PeerServices {
    /// The device's services.
    pub table: Arc<ServiceTable>,
    /// What logs call the gateway.
    pub peer: Arc<str>,
    /// Where it may ask how the agent is doing.
    pub reporter: Reporter,
}

impl Services for PeerServices {
    fn dial(&mut self, service: &str, mode: Mode) -> Result<(Io, OnEnd), ResetReason> {
        if service == REPORT_SERVICE && mode == Mode::Stream {
            return Ok(self.reporter.dial());
        }
        self.table.dial(Wanted { service, mode, peer: &self.peer, may_be_silent: Duration::ZERO })
    }
}

fn tell_end(service: &str, ended: &Ended) {
    let Ended { end, sent, received, lasted } = ended;
    let how = match end {
        End::Closed => "closed".to_owned(),
        End::Reset(reason) => format!("reset by the cloud ({reason})"),
        End::Local(reason) => format!("reset from here ({reason})"),
    };
    debug!("{service}: {how} after {:.1} s, {sent} bytes to the cloud, {received} from it", lasted.as_secs_f32());
}

async fn dial(target: Target, name: Arc<str>) -> Result<Io, ResetReason> {
    let late = async {
        Timer::after(DIAL).await;
        Err(io::Error::from(io::ErrorKind::TimedOut))
    };
    future::or(connect(&target), late).await.map_err(|error| {
        warn!("service {name}: can't connect to {target}: {error}");
        reset_reason(&error)
    })
}

/// Connects to where a service of bytes lives.
pub(crate) async fn connect(target: &Target) -> io::Result<Io> {
    match target {
        Target::Tcp { host, port } => {
            let addresses = smol::net::resolve((host.as_str(), *port)).await?;
            let tried = happy_eyeballs::connect(&addresses, happy_eyeballs::ATTEMPT_DELAY).await;
            let socket = tried.map_err(|attempts| match attempts.into_iter().last() {
                Some((_, error)) => error,
                None => io::Error::from(io::ErrorKind::NotFound),
            })?;
            Io::tcp(socket)
        }
        Target::Unix(path) => Async::<UnixStream>::connect(path).await.map(Io::Unix),
        Target::Serial(line) => SerialPort::open(line).map(|port| Io::Other(Box::new(port))),
        Target::Udp { .. } => Err(io::ErrorKind::Unsupported.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(services: &[(&str, &str)]) -> ServiceTable {
        let service = |target| Service {
            target: Target::parse(target).unwrap(),
            max_streams: None,
            idle_timeout: Duration::from_secs(60),
        };
        ServiceTable::new(&services.iter().map(|(name, target)| ((*name).to_owned(), service(target))).collect())
    }

    #[test]
    fn a_ports_name_means_a_service_or_none() {
        let one = table(&[("ssh", "tcp:127.0.0.1:2222")]);
        let several = [
            ("ssh", "tcp:127.0.0.1:22"),
            ("80", "tcp:127.0.0.1:8080"),
            ("web", "tcp:127.0.0.1:80"),
            ("one", "tcp:10.0.0.1:502"),
            ("other", "tcp:10.0.0.2:502"),
            ("docker", "unix:/run/docker.sock"),
            ("dns", "udp:127.0.0.1:53"),
            ("time", "udp:127.0.0.1:22"),
        ];
        let datagrams = table(&[("snmp", "udp:127.0.0.1:161")]);
        let several = table(&several);
        for (table, port, service) in [
            // the only one by any number
            (&one, "2222", Some("ssh")),
            (&one, "1", Some("ssh")),
            (&one, "ssh", Some("ssh")),
            (&one, "SSH", None),
            (&one, "", None),
            (&one, "+1", None),
            // of several by name, as it is written, before the port
            (&several, "ssh", Some("ssh")),
            (&several, "Ssh", None),
            (&several, "22", Some("ssh")),
            (&several, "80", Some("80")),
            (&several, "8080", Some("80")),
            (&several, "022", None),
            (&several, "23", None),
            (&several, "docker", Some("docker")),
            // UDP ports have a letter of their own
            (&several, "53U", Some("dns")),
            (&several, "53", None),
            (&several, "53u", None),
            (&several, "22U", Some("time")),
            (&several, "U", None),
            (&datagrams, "161U", Some("snmp")),
            (&datagrams, "1161U", None),
            (&datagrams, "1161", Some("snmp")),
            // of two, none is meant
            (&several, "502", None),
            (&ServiceTable::default(), "22", None),
        ] {
            let meant = table.by_port_name(port);
            assert_eq!(meant.as_ref().map(|(name, _)| &**name), service, "{port:?}");
            let is_udp = |name: &str| ["dns", "time", "snmp"].contains(&name);
            assert!(meant.is_none_or(|(name, mode)| (mode == Mode::Datagram) == is_udp(&name)), "{port:?}");
        }
    }
}
