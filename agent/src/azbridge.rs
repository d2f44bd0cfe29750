//! How azbridge's senders name the service they want, and what they are told: the listener's half of its preamble
//! (`umbilical_relay_protocol::PreambleHead` has the bytes).
//!
//! Owns: reading the name, the answer. Leaves to others: which service a name means (`services`), dialling it.

use std::{fmt, time::Duration};

use smol::{Timer, future};
use umbilical_link::byte_stream::{ByteStream, StreamError};
use umbilical_mux::Mode;
use umbilical_relay_protocol::{PortMode, PreambleHead, PreambleReply};

use crate::services::ServiceTable;

/// How long a sender may take to name what it wants.
const NAMED_WITHIN: Duration = Duration::from_secs(10);

/// The close code after a refusal: azbridge gives no reason either.
const NORMAL: u16 = 1000;

/// Why a sender is not joined with a service.
#[derive(Debug)]
pub enum Refusal {
    /// It speaks another version, or something else than azbridge.
    Version,
    /// No service has that name.
    NoPort(String),
    /// It asked for datagrams, and the service takes a stream; or the other way round.
    Mode(String, PortMode),
    /// It broke off.
    Broken(StreamError),
    /// It said too little for too long.
    Late,
}

/// Reads what a sender asks for, and accepts it: the name of the service, and what it carries.
///
/// # Errors
/// [`Refusal`], which the sender is still to be [told](Refusal::tell).
pub async fn greet(stream: &mut ByteStream, services: &ServiceTable) -> Result<(String, Mode), Refusal> {
    let late = async {
        Timer::after(NAMED_WITHIN).await;
        Err(Refusal::Late)
    };
    let named = async {
        let (name, mode) = read_name(stream, services).await?;
        let accepted = PreambleReply::Accepted(mode);
        stream.write(&accepted.encode()).await.map_err(Refusal::Broken)?;
        Ok((name, if mode == PortMode::Stream { Mode::Stream } else { Mode::Datagram }))
    };
    future::or(named, late).await
}

async fn read_name(stream: &mut ByteStream, services: &ServiceTable) -> Result<(String, PortMode), Refusal> {
    let mut head = [0; PreambleHead::BYTES];
    stream.read_exact(&mut head).await.map_err(Refusal::Broken)?;
    let PreambleHead { mode, name_length } = PreambleHead::parse(head).ok_or(Refusal::Version)?;
    let mut name = vec![0; usize::from(name_length)];
    stream.read_exact(&mut name).await.map_err(Refusal::Broken)?;
    let port = String::from_utf8_lossy(&name);
    let (service, carried) = services.by_port_name(&port).ok_or_else(|| Refusal::NoPort(port.into_owned()))?;
    match (mode, carried) {
        (PortMode::Stream, Mode::Stream) | (PortMode::Datagram, Mode::Datagram) => Ok((service, mode)),
        _ => Err(Refusal::Mode(service, mode)),
    }
}

impl Refusal {
    /// Tells the sender, as azbridge would, and closes.
    pub async fn tell(self, mut stream: ByteStream) {
        let reply = match self {
            Refusal::Version => Some(PreambleReply::VersionNotUnderstood),
            Refusal::Mode(_, PortMode::Datagram) => Some(PreambleReply::TakesStream),
            Refusal::Mode(_, PortMode::Stream) => Some(PreambleReply::TakesDatagrams),
            // silence is azbridge's word for it
            Refusal::NoPort(_) => None,
            Refusal::Broken(_) | Refusal::Late => return,
        };
        let told = match reply {
            Some(reply) => stream.write(&reply.encode()).await,
            None => Ok(()),
        };
        if told.is_ok() {
            stream.close(NORMAL, "").await;
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Version => {
                f.write_str("refused, it does not speak azbridge's preamble; for bytes alone there is plain-service")
            }
            Refusal::NoPort(port) => {
                write!(f, "refused, it asked for the port {port:?}, and no single service here has that name or port")
            }
            Refusal::Mode(service, PortMode::Datagram) => {
                write!(f, "refused, it asked service {service} for datagrams, and that takes a stream")
            }
            Refusal::Mode(service, PortMode::Stream) => {
                write!(f, "refused, it asked service {service} for a stream, and that takes datagrams")
            }
            Refusal::Broken(error) => write!(f, "broke off before it named a service: {error}"),
            Refusal::Late => write!(f, "did not name a service within {} s", NAMED_WITHIN.as_secs()),
        }
    }
}
