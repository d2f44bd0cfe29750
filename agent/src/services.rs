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
    time::Duration,
};

use log::{debug, warn};
use smol::{Async, Timer, future};
use umbilical_link::{
    Ended, Io, Services, happy_eyeballs,
    port::{Dialing, OnEnd, reset_reason},
};
use umbilical_mux::{End, ResetReason};

use crate::config::{Service, Target};

/// How long a service may take to answer. It is on this device or near it.
const DIAL: Duration = Duration::from_secs(10);

/// The services of this device. One for all sessions.
#[derive(Debug, Default)]
pub struct ServiceTable(Mutex<BTreeMap<String, Offered>>);

#[derive(Debug, Clone)]
struct Offered {
    service: Service,
    /// Streams open now, in all sessions; it outlives a change of the list.
    open: Arc<AtomicUsize>,
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
                    table.insert(name.clone(), Offered { service: service.clone(), open: Arc::default() });
                }
            }
            changed += 1;
        }
        (changed, gone)
    }

    /// The service that azbridge's senders mean by a port's name: the only one by any number; otherwise one of that name,
    /// or the one whose target has that TCP port. Names are compared as they are.
    #[must_use]
    pub fn by_port_name(&self, port: &str) -> Option<String> {
        let table = self.table();
        let number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        if let (1, true) = (table.len(), number) {
            return table.keys().next().cloned();
        }
        if table.contains_key(port) {
            return Some(port.to_owned());
        }
        let is_there = |offered: &Offered| match offered.service.target {
            Target::Tcp { port: there, .. } => there.to_string() == port,
            Target::Unix(_) => false,
        };
        let mut there = table.iter().filter(|(_, offered)| is_there(offered));
        match (there.next(), there.next()) {
            (Some((name, _)), None) => Some(name.clone()),
            // of several, none is meant
            _ => None,
        }
    }

    /// Begins to dial `name` for `peer`.
    ///
    /// # Errors
    /// [`ResetReason::NOT_ALLOWED`] for what is not offered, [`ResetReason::BUSY`] at the service's limit.
    pub fn dial(&self, name: &str, peer: &str) -> Result<(Dialing, OnEnd), ResetReason> {
        let Some(Offered { service: Service { target, max_streams }, open }) = self.table().get(name).cloned() else {
            warn!(
                "{peer} asked for the service {name:?}, which is not configured here; to offer it, add [services.{name}]"
            );
            return Err(ResetReason::NOT_ALLOWED);
        };
        if open.fetch_add(1, Ordering::Relaxed) >= max_streams.unwrap_or(usize::MAX) {
            open.fetch_sub(1, Ordering::Relaxed);
            warn!("{peer} asked for more than the {} streams of service {name}", max_streams.unwrap_or_default());
            return Err(ResetReason::BUSY);
        }
        let name: Arc<str> = name.into();
        let dialing = dial(target, Arc::clone(&name));
        let on_end = move |ended: &Ended| {
            open.fetch_sub(1, Ordering::Relaxed);
            let Ended { end, sent, received, lasted } = ended;
            let how = match end {
                End::Closed => "closed".to_owned(),
                End::Reset(reason) => format!("reset by the cloud ({reason})"),
                End::Local(reason) => format!("reset from here ({reason})"),
            };
            debug!("{name}: {how} after {:.1} s, {sent} bytes to the cloud, {received} from it", lasted.as_secs_f32());
        };
        Ok((Box::pin(dialing), Box::new(on_end)))
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<String, Offered>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The table as one gateway sees it.
#[derive(Debug, Clone)]
pub struct PeerServices {
    /// The device's services.
    pub table: Arc<ServiceTable>,
    /// What logs call the gateway.
    pub peer: Arc<str>,
}

impl Services for PeerServices {
    fn dial(&mut self, service: &str) -> Result<(Dialing, OnEnd), ResetReason> {
        self.table.dial(service, &self.peer)
    }
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

/// Connects to where a service lives.
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(services: &[(&str, &str)]) -> ServiceTable {
        let service = |target| Service { target: Target::parse(target).unwrap(), max_streams: None };
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
        ];
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
            // of two, none is meant
            (&several, "502", None),
            (&ServiceTable::default(), "22", None),
        ] {
            assert_eq!(table.by_port_name(port).as_deref(), service, "{port:?}");
        }
    }
}
