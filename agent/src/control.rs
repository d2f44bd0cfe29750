//! One control channel: the WebSocket over which the relay tells of senders, and the listener renews its token.
//!
//! Owns: opening it, keeping it alive, noticing that it died, and the messages on it. Leaves to others: when to open the
//! next one (`listener`), what to do with a message.
//!
//! It is idle nearly always, so its buffers are small: a message of the relay may have 64 KiB, and most have one.

use std::{fmt, future::Future, io, time::Duration};

use async_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Bytes, Message,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};
use log::debug;
use smol::{Timer, future, stream::StreamExt};
use socket2::SockRef;
use umbilical_link::{
    dial::{DialError, Dialer, Target},
    transport::Transport,
    upgrade::{UpgradeError, UpgradeRequest, Upgraded, upgrade},
};
use umbilical_relay_protocol::{
    AUTHORIZATION_HEADER, Close, ControlError, ListenerMessage, RelayMessage, RelayUrl, Request, RequestHead, Response,
};

use crate::{
    config::KeepAliveFrame,
    credentials::Token,
    silence::{Silence, Step},
    sys::boot_time,
};

/// How long the relay may take to answer the handshake, once it is connected.
const ANSWER: Duration = Duration::from_secs(20);

/// How long a message may take to leave: the socket's buffer is empty nearly always.
const WRITE: Duration = Duration::from_secs(20);

/// How long the relay may take to complete a close.
const CLOSE: Duration = Duration::from_secs(2);

/// After this long without an acknowledgement of bytes sent, or after the interval if that is shorter, the kernel gives the
/// connection up. An unasked Pong is answered by nobody but TCP, and TCP alone would wait for a quarter of an hour. As long
/// as a Ping's answer may take.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// Longest message in bytes: the body of an HTTP request. A text is one less at most.
const MESSAGE_BYTES: usize = 64 * 1024;

/// Read buffer: one message of the usual size.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// The device's end of a control channel.
pub struct ControlChannel {
    socket: WebSocketStream<Transport>,
    silence: Silence,
    /// A request whose body is the next message.
    awaited: Option<RequestHead>,
}

/// What came over the channel.
#[derive(Debug)]
pub enum Arrived {
    /// A message, other than an HTTP request.
    Message(RelayMessage),
    /// An HTTP request, and the body that came with its head.
    Request(Request, Vec<u8>),
    /// A text that is no message; the channel goes on.
    Unreadable(ControlError),
}

impl ControlChannel {
    /// Registers a listener of the given id at `url`, and gives the relay's date, in Unix seconds, if it told. Its silence is
    /// broken `every` so often, by the frame that was `told` or the one that suits the relay.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        dialer: &Dialer,
        url: &RelayUrl,
        id: &str,
        token: &Token,
        (every, told): (Duration, Option<KeepAliveFrame>),
    ) -> Result<(ControlChannel, Option<u64>), OpenError> {
        let target = Target { host: url.host().to_owned(), port: url.port(), tls: url.tls() };
        let transport = dialer.dial(&target).await.map_err(OpenError::Dial)?;
        let unacknowledged = Some(every.min(UNACKNOWLEDGED));
        SockRef::from(transport.socket()).set_tcp_user_timeout(unacknowledged).map_err(OpenError::Socket)?;
        let request = UpgradeRequest {
            authority: &url.authority(),
            target: &url.listen_target(id),
            headers: vec![(AUTHORIZATION_HEADER, token.text())],
            subprotocol: None,
        };
        let answer = async { upgrade(transport, &request).await.map_err(OpenError::Upgrade) };
        let upgraded = within(ANSWER, answer, || OpenError::NoAnswer).await?;
        let date = upgraded.date;
        let frame = told.unwrap_or_else(|| suitable_frame(url, upgraded.answers_pings));
        debug!("silence towards {url} is broken by a {frame:?} every {} s", every.as_secs());
        Ok((ControlChannel::over(upgraded, every, frame).await, date))
    }

    async fn over(upgraded: Upgraded, every: Duration, frame: KeepAliveFrame) -> ControlChannel {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(3 * MESSAGE_BYTES)
            .max_message_size(Some(MESSAGE_BYTES))
            .max_frame_size(Some(MESSAGE_BYTES));
        let Upgraded { transport, leftover, .. } = upgraded;
        let socket = WebSocketStream::from_partially_read(transport, leftover, Role::Client, Some(config)).await;
        ControlChannel { socket, silence: Silence::new(every, frame, boot_time()), awaited: None }
    }

    /// Waits for the next message, and keeps the channel alive meanwhile. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    /// The channel is over.
    pub async fn next(&mut self) -> Result<Arrived, Lost> {
        loop {
            let until = match self.silence.step(boot_time()) {
                Step::Dead(silent) => return Err(Lost::Silent(silent)),
                Step::Send(frame) => {
                    self.send_keep_alive(frame).await?;
                    continue;
                }
                Step::WaitUntil(until) => until,
            };
            let socket = &mut self.socket;
            let arrived = async { Some(socket.next().await) };
            let time = async {
                Timer::after(until.saturating_sub(boot_time())).await;
                None
            };
            let Some(arrived) = future::or(arrived, time).await else { continue };
            match arrived {
                Some(Ok(message)) => {
                    if let Some(arrived) = self.take(message).await? {
                        return Ok(arrived);
                    }
                }
                Some(Err(error)) => return Err(Lost::from(error)),
                None => return Err(Lost::Ended),
            }
        }
    }

    /// Asks the relay for a sign of life, if it is one that answers.
    pub fn doubt(&mut self) {
        self.silence.doubt();
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The channel is over.
    pub async fn send(&mut self, message: &ListenerMessage) -> Result<(), Lost> {
        let json = message.to_json().map_err(Lost::Unsendable)?;
        self.write(Message::text(json)).await?;
        self.silence.wrote(boot_time());
        Ok(())
    }

    /// Sends a response and its body, with nothing in between.
    ///
    /// # Errors
    /// The channel is over.
    pub async fn respond(&mut self, response: Response, body: Vec<u8>) -> Result<(), Lost> {
        let has_body = response.body;
        self.send(&ListenerMessage::Response(response)).await?;
        if has_body {
            self.write(Message::binary(body)).await?;
        }
        Ok(())
    }

    /// Takes leave of the relay: it sends nobody here any more.
    pub async fn close(mut self) {
        let close = Close::normal();
        let frame = CloseFrame { code: close.code().into(), reason: close.reason().to_owned().into() };
        let farewell = async {
            self.socket.close(Some(frame)).await?;
            while !matches!(self.socket.next().await, Some(Ok(Message::Close(_)) | Err(_)) | None) {}
            Ok(())
        };
        let _: Result<(), Lost> = within(CLOSE, farewell, || Lost::Stuck).await;
    }

    async fn take(&mut self, message: Message) -> Result<Option<Arrived>, Lost> {
        let now = boot_time();
        match message {
            Message::Text(text) => {
                self.silence.read(now);
                // a body that does not follow its head does not exist
                self.awaited = None;
                Ok(match RelayMessage::parse(&text) {
                    Ok(RelayMessage::Request(Request::Head(head))) if head.body => {
                        self.awaited = Some(head);
                        None
                    }
                    Ok(RelayMessage::Request(request)) => Some(Arrived::Request(request, Vec::new())),
                    Ok(message) => Some(Arrived::Message(message)),
                    Err(error) => Some(Arrived::Unreadable(error)),
                })
            }
            Message::Binary(body) => {
                self.silence.read(now);
                let head = self.awaited.take();
                Ok(head.map(|head| Arrived::Request(Request::Head(head), body.to_vec())))
            }
            Message::Frame(_) => Ok(None),
            Message::Ping(_) | Message::Pong(_) => {
                self.silence.read_keep_alive(now);
                Ok(None)
            }
            Message::Close(frame) => {
                // the library's answer leaves with the next look
                let _ = future::poll_once(self.socket.next()).await;
                let close = frame.map(|frame| Close::new(frame.code.into(), &frame.reason));
                Err(close.map_or(Lost::Ended, Lost::Closed))
            }
        }
    }

    async fn send_keep_alive(&mut self, frame: KeepAliveFrame) -> Result<(), Lost> {
        let message = match frame {
            KeepAliveFrame::Pong => Message::Pong(Bytes::new()),
            KeepAliveFrame::Ping => Message::Ping(Bytes::new()),
        };
        self.write(message).await?;
        self.silence.wrote_keep_alive(boot_time());
        Ok(())
    }

    async fn write(&mut self, message: Message) -> Result<(), Lost> {
        let written = async { self.socket.send(message).await.map_err(Lost::from) };
        within(WRITE, written, || Lost::Stuck).await
    }
}

/// A Ping where it is known to be answered, and a Pong, which nobody minds, elsewhere. What is called Azure's relay gets no
/// Ping whatever it seems to say: something in between may have said it.
fn suitable_frame(url: &RelayUrl, answers_pings: bool) -> KeepAliveFrame {
    if answers_pings && !url.is_azure() { KeepAliveFrame::Ping } else { KeepAliveFrame::Pong }
}

/// Why a control channel did not open.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The relay was not reached.
    Dial(DialError),
    /// The kernel refused an option for the new socket.
    Socket(io::Error),
    /// The relay refused, or answered something else than a relay.
    Upgrade(UpgradeError),
    /// The relay did not answer in time.
    NoAnswer,
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Dial(error) => error.fmt(f),
            OpenError::Socket(error) => write!(f, "can't set the options of a new socket: {error}"),
            OpenError::Upgrade(error) => error.fmt(f),
            OpenError::NoAnswer => {
                write!(f, "the relay did not answer the WebSocket request within {} s", ANSWER.as_secs())
            }
        }
    }
}

impl std::error::Error for OpenError {}

/// How a control channel ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Lost {
    /// The relay closed it, in these words.
    Closed(Close),
    /// It ended without a word.
    Ended,
    /// Nothing was heard for this long, against the relay's habit.
    Silent(Duration),
    /// A message could not be written in time.
    Stuck,
    /// The connection broke.
    Broken(io::Error),
    /// The relay broke the WebSocket protocol.
    Protocol(tungstenite::Error),
    /// A message of ours is too long for the protocol.
    Unsendable(ControlError),
}

impl From<tungstenite::Error> for Lost {
    fn from(error: tungstenite::Error) -> Lost {
        use tungstenite::error::{Error, ProtocolError};
        match error {
            Error::ConnectionClosed
            | Error::AlreadyClosed
            | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Lost::Ended,
            Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => Lost::Ended,
            Error::Io(error) => Lost::Broken(error),
            error => Lost::Protocol(error),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lost::Closed(close) => write!(f, "the relay closed it with {close}"),
            Lost::Ended => f.write_str("it ended without a close frame"),
            Lost::Silent(silent) => write!(f, "nothing was heard from the relay for {} s", silent.as_secs()),
            Lost::Stuck => write!(f, "the relay took nothing for {} s", WRITE.as_secs()),
            Lost::Broken(error) => write!(f, "the connection broke: {error}"),
            Lost::Protocol(error) => write!(f, "the relay broke the WebSocket protocol: {error}"),
            Lost::Unsendable(error) => write!(f, "a message can't be sent: {error}"),
        }
    }
}

impl std::error::Error for Lost {}

async fn within<T, E>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
    late: impl FnOnce() -> E,
) -> Result<T, E> {
    let deadline = async {
        Timer::after(limit).await;
        Err(late())
    };
    future::or(work, deadline).await
}
