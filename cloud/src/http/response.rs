//! Short answers, whose reason phrase and header values may come from anywhere.
//!
//! Every answer carries a `Date` (devices without a clock set theirs by it) and, unless it is a 101, ends its connection.

use std::fmt::Write as _;
use std::io;
use std::time::SystemTime;

use async_tungstenite::tungstenite::handshake::derive_accept_key;
use async_tungstenite::tungstenite::http::StatusCode;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest reason phrase written; the rest is cut off. Far above what any client shows, far below what breaks one.
const MAX_REASON_BYTES: usize = 512;

/// Bytes of a refused client's request that are read and thrown away, so that closing does not reset the connection
/// before the client has read its answer.
const MAX_DISCARDED_BYTES: usize = 64 * 1024;

/// An answer with its head and, unless it is a 101 or to a `HEAD`, a body: its own, or the reason once more for people with
/// `curl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    status: u16,
    reason: String,
    headers: Vec<(&'static str, String)>,
    /// Whether there is a body.
    body: bool,
    /// Media type and text of a body of its own.
    content: Option<(&'static str, String)>,
}

impl Response {
    /// An answer. Of `reason`, only printable ASCII is kept; if it is empty, the status' usual phrase takes its place.
    #[must_use]
    pub fn new(status: u16, reason: &str) -> Self {
        let reason = reason_phrase(status, reason);
        Self { status, reason, headers: Vec::new(), body: status != 101, content: None }
    }

    /// The answer to a WebSocket handshake. It never agrees to an extension.
    #[must_use]
    pub fn switching_protocols(key: &str, subprotocol: Option<&str>) -> Self {
        let response = Self::new(101, "Switching Protocols")
            .header("Upgrade", "websocket")
            .header("Connection", "Upgrade")
            .header("Sec-WebSocket-Accept", derive_accept_key(key.as_bytes()));
        match subprotocol {
            Some(subprotocol) => response.header("Sec-WebSocket-Protocol", subprotocol),
            None => response,
        }
    }

    /// The same without a body, for `HEAD`.
    #[must_use]
    pub fn without_body(mut self) -> Self {
        self.body = false;
        self
    }

    /// Adds a header line. Control characters in `value` are dropped.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        let mut value = value.into();
        value.retain(|char| !char.is_control());
        self.headers.push((name, value));
        self
    }

    /// The same with a body of its own, of this media type.
    #[must_use]
    pub fn content(mut self, media_type: &'static str, body: String) -> Self {
        self.content = Some((media_type, body));
        self
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The reason phrase as it is written.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Writes the answer in one piece and leaves the connection open.
    ///
    /// # Errors
    /// The stream's.
    pub async fn write<S: AsyncWrite + Unpin>(&self, stream: &mut S) -> io::Result<()> {
        stream.write_all(&self.encode(SystemTime::now())).await?;
        stream.flush().await
    }

    /// Writes the answer and closes the connection such that the client can read it to the end: whatever it still
    /// sends is read and dropped, within limits, until it closes too.
    ///
    /// # Errors
    /// The stream's.
    pub async fn finish<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S) -> io::Result<()> {
        self.write(stream).await?;
        stream.close().await?;
        discard(stream).await
    }

    fn encode(&self, now: SystemTime) -> Vec<u8> {
        let mut out = String::with_capacity(256 + 2 * self.reason.len());
        let _ = write!(out, "HTTP/1.1 {} {}\r\n", self.status, self.reason);
        let _ = write!(out, "Date: {}\r\n", httpdate::fmt_http_date(now));
        for (name, value) in &self.headers {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        if self.status != 101 {
            let (media_type, length) = match &self.content {
                Some((media_type, body)) => (*media_type, body.len()),
                None => ("text/plain", self.reason.len() + 1),
            };
            let _ = write!(out, "Content-Type: {media_type}\r\nContent-Length: {length}\r\nConnection: close\r\n");
        }
        out.push_str("\r\n");
        match &self.content {
            _ if !self.body => {}
            Some((_, body)) => out.push_str(body),
            None => _ = writeln!(out, "{}", self.reason),
        }
        out.into_bytes()
    }
}

/// Reads and drops what a peer still sends, until it closes or has sent [`MAX_DISCARDED_BYTES`].
///
/// # Errors
/// The stream's.
pub(crate) async fn discard<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<()> {
    let mut discarded = 0;
    let mut buf = [0; 512];
    while discarded < MAX_DISCARDED_BYTES {
        match stream.read(&mut buf).await? {
            0 => break,
            n => discarded += n,
        }
    }
    Ok(())
}

/// `reason` as it may stand in a status line, or else the status' usual phrase.
pub(crate) fn reason_phrase(status: u16, reason: &str) -> String {
    let printable = |char: &char| *char == ' ' || char.is_ascii_graphic();
    let reason = reason.chars().map(|char| if char.is_control() { ' ' } else { char });
    let reason: String = reason.filter(printable).take(MAX_REASON_BYTES).collect();
    match reason.trim() {
        "" => {
            let usual = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
            usual.unwrap_or("Status").to_owned()
        }
        reason => reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn an_answer_cannot_be_split_by_its_reason_or_headers() {
        let response = Response::new(410, "Gone\r\nSet-Cookie: a\u{e9}").header("X", "a\r\nb");
        assert_eq!(
            String::from_utf8(response.encode(UNIX_EPOCH + Duration::from_secs(784_111_777))).unwrap(),
            "HTTP/1.1 410 Gone  Set-Cookie: a\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nX: ab\r\n\
             Content-Type: text/plain\r\nContent-Length: 20\r\nConnection: close\r\n\r\nGone  Set-Cookie: a\n"
        );
        assert_eq!(Response::new(404, "").reason(), "Not Found");
        assert_eq!(Response::new(599, "\n").reason(), "Status");
        assert_eq!(Response::new(400, &"x".repeat(10_000)).reason().len(), MAX_REASON_BYTES);
    }

    #[test]
    fn a_handshake_is_answered_as_the_rfc_shows() {
        let response = Response::switching_protocols("dGhlIHNhbXBsZSBub25jZQ==", Some("chat"));
        let text = String::from_utf8(response.encode(SystemTime::now())).unwrap();
        assert!(text.starts_with("HTTP/1.1 101 Switching Protocols\r\nDate: "), "{text}");
        assert!(text.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{text}");
        assert!(text.ends_with("Sec-WebSocket-Protocol: chat\r\n\r\n"), "{text}");
    }
}
