//! Heads of relayed HTTP messages: what a sender's head says about its connection and its body, what of it a listener gets
//! to know, and what a sender gets to see of a listener's response (RFC 9110, section 7.6; RFC 9112, section 6).
//!
//! A relay is a proxy: what describes one connection (`Connection` and what it names, framing, `Expect`) ends here and is
//! made anew. `Host` travels on: the protocol guide says that it does not in one place, and shows it in another.
//! Leaves to others: who may, bodies, sockets.

use std::fmt::Write as _;
use std::time::SystemTime;

use umbilical_relay_protocol::{AUTHORIZATION_HEADER, Headers, Rejection, RelayUrl, Response};

use crate::http::{RequestHead, reason_phrase};

/// Headers about one connection, in both directions.
const PER_CONNECTION: [&str; 9] = [
    "close",
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What a request's head says about everything but its meaning.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// How long the body is.
    pub(crate) framing: Framing,
    /// Another request may follow on the same connection.
    pub(crate) keep_alive: bool,
    /// The sender waits for a 100 before it sends the body.
    pub(crate) expects_continue: bool,
    /// The sender reads bodies in chunks (HTTP/1.1).
    pub(crate) reads_chunks: bool,
    /// The response has no body, whatever its headers say.
    pub(crate) head_only: bool,
    /// The name that the sender knows the relay by, without port.
    pub(crate) host: String,
}

/// How a request's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// So many bytes, at least one.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// How a response's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// There is none, and its length says nothing.
    Absent,
    /// So many bytes.
    Length(usize),
    /// In chunks.
    Chunked,
    /// To the end of the connection, for HTTP/1.0.
    ToTheEnd,
}

impl Shape {
    /// Judges a head.
    ///
    /// # Errors
    /// 400 contradictions and nonsense, 405 `CONNECT`, 417 another expectation than `100-continue`, 501 another transfer
    /// coding than `chunked`.
    pub(crate) fn of(head: &RequestHead) -> Result<Self, Rejection> {
        if head.method == "CONNECT" {
            return Err(Rejection::new(405, "CONNECT requests are not relayed"));
        }
        let current = head.minor_version > 0;
        let names = |header, token: &str| head.list(header).any(|entry| entry.eq_ignore_ascii_case(token));
        if let Some(expectation) = head.list("expect").find(|entry| !entry.eq_ignore_ascii_case("100-continue")) {
            return Err(Rejection::new(417, &format!("Nothing but 100-continue may be expected, not {expectation}")));
        }
        let framing = framing(head)?;
        let expects_continue = current && framing != Framing::None && names("expect", "100-continue");
        Ok(Self {
            framing,
            keep_alive: current && !names("connection", "close"),
            expects_continue,
            reads_chunks: current,
            head_only: head.method == "HEAD",
            host: host(head)?,
        })
    }
}

fn framing(head: &RequestHead) -> Result<Framing, Rejection> {
    let mut codings = head.list("transfer-encoding").peekable();
    let mut lengths = head.list("content-length");
    let length = lengths.next();
    if codings.peek().is_some() {
        // a reader that goes by the other header sees another message: that is how requests are smuggled
        if length.is_some() || head.minor_version == 0 {
            return Err(Rejection::new(400, "Transfer-Encoding does not go with Content-Length, nor with HTTP/1.0"));
        }
        return match (codings.next(), codings.next()) {
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            _ => Err(Rejection::new(501, "The only transfer coding understood is chunked")),
        };
    }
    let Some(length) = length else { return Ok(Framing::None) };
    let digits = length.bytes().all(|byte| byte.is_ascii_digit());
    match length.parse() {
        Ok(length) if digits && lengths.all(|other| other.parse() == Ok(length)) => {
            Ok(if length == 0 { Framing::None } else { Framing::Length(length) })
        }
        _ => Err(Rejection::new(400, "Content-Length is no number of bytes")),
    }
}

fn host(head: &RequestHead) -> Result<String, Rejection> {
    let mut hosts = head.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, host)| host);
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        (None, _) if head.minor_version == 0 => "relay",
        _ => return Err(Rejection::new(400, "There must be one Host header")),
    };
    match RelayUrl::parse(&format!("wss://{host}")) {
        Ok(url) if url.path().is_empty() => Ok(url.host().to_owned()),
        _ => Err(Rejection::new(400, "The Host header is no host")),
    }
}

/// The headers for the listener. `authorization` is whether that header was the sender's credential, and thus the relay's.
pub(crate) fn for_listener(head: &RequestHead, host: &str, authorization: bool) -> Headers {
    let named = named_by_connection(head.list("connection"));
    let mut headers = Headers::default();
    for (name, value) in &head.headers {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let relays = is(AUTHORIZATION_HEADER) || is("expect") || (authorization && is("authorization"));
        if !relays && !PER_CONNECTION.into_iter().any(is) && !named.iter().any(|named| is(named)) {
            // the parser has let none but tokens through
            let _ = headers.push(name, value);
        }
    }
    let _ = headers.push("Via", &format!("1.{} {host}", head.minor_version));
    headers
}

/// The head of a listener's response as the sender gets it. `Via` is how the sender knows that it is not the relay's own.
pub(crate) fn for_sender(response: &Response, host: &str, extent: Extent, keep_alive: bool) -> Vec<u8> {
    let reason = reason_phrase(response.status, response.reason.as_deref().unwrap_or_default());
    let mut out = format!("HTTP/1.1 {} {reason}\r\n", response.status);
    let named = named_by_connection(response.headers.all("connection").flat_map(|value| value.split(',')));
    for (name, value) in response.headers.iter() {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        if !PER_CONNECTION.into_iter().any(is) && !named.iter().any(|named| is(named)) {
            let _ = write!(out, "{name}: {value}\r\n");
        }
    }
    if response.headers.get("date").is_none() {
        let _ = write!(out, "Date: {}\r\n", httpdate::fmt_http_date(SystemTime::now()));
    }
    let _ = write!(out, "Via: 1.1 {host}\r\n");
    match extent {
        Extent::Absent | Extent::ToTheEnd => {}
        Extent::Length(length) => {
            let _ = write!(out, "Content-Length: {length}\r\n");
        }
        Extent::Chunked => out.push_str("Transfer-Encoding: chunked\r\n"),
    }
    if !keep_alive {
        out.push_str("Connection: close\r\n");
    }
    out.push_str("\r\n");
    out.into_bytes()
}

/// What `Connection` names is about the connection too, but for what no message can do without.
fn named_by_connection<'h>(entries: impl Iterator<Item = &'h str>) -> Vec<&'h str> {
    entries.map(str::trim).filter(|name| !name.eq_ignore_ascii_case("host")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(method: &str, minor_version: u8, lines: &[(&str, &str)]) -> RequestHead {
        let headers = lines.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        RequestHead { method: method.into(), target: "/device".into(), minor_version, headers }
    }

    fn shape(lines: &[(&str, &str)]) -> Result<Shape, u16> {
        let lines = [&[("Host", "Relay.example:8443")], lines].concat();
        Shape::of(&head("POST", 1, &lines)).map_err(|rejection| rejection.status())
    }

    #[test]
    fn a_body_is_as_long_as_its_head_says() {
        let framing = |lines| shape(lines).map(|shape| shape.framing);
        assert_eq!(framing(&[]), Ok(Framing::None));
        assert_eq!(framing(&[("Content-Length", "0")]), Ok(Framing::None));
        assert_eq!(framing(&[("content-length", " 17 ")]), Ok(Framing::Length(17)));
        assert_eq!(framing(&[("Content-Length", "17"), ("Content-Length", "17, 17")]), Ok(Framing::Length(17)));
        assert_eq!(framing(&[("Transfer-Encoding", "Chunked")]), Ok(Framing::Chunked));
        for (lines, status) in [
            (&[("Content-Length", "-1")][..], 400),
            (&[("Content-Length", "+1")], 400),
            (&[("Content-Length", "0x1")], 400),
            (&[("Content-Length", "18446744073709551616")], 400),
            (&[("Content-Length", "1"), ("Content-Length", "2")], 400),
            (&[("Content-Length", "1"), ("Transfer-Encoding", "chunked")], 400),
            (&[("Transfer-Encoding", "gzip, chunked")], 501),
            (&[("Transfer-Encoding", "gzip")], 501),
        ] {
            assert_eq!(framing(lines), Err(status), "{lines:?}");
        }
        let old = head("POST", 0, &[("Transfer-Encoding", "chunked")]);
        assert_eq!(Shape::of(&old).unwrap_err().status(), 400);
    }

    #[test]
    fn a_connection_goes_on_unless_one_side_cannot() {
        let keeps = |minor_version, lines: &[_]| {
            Shape::of(&head("GET", minor_version, &[&[("Host", "x")], lines].concat())).unwrap().keep_alive
        };
        assert!(keeps(1, &[]) && keeps(1, &[("Connection", "keep-alive")]));
        assert!(!keeps(1, &[("Connection", "x, Close")]) && !keeps(0, &[("Connection", "keep-alive")]));
    }

    #[test]
    fn expectations() {
        let expects = |lines| shape(lines).map(|shape| shape.expects_continue);
        assert_eq!(expects(&[("Expect", "100-Continue"), ("Content-Length", "1")]), Ok(true));
        assert_eq!(expects(&[("Expect", "100-continue")]), Ok(false));
        assert_eq!(expects(&[("Expect", "miracles")]), Err(417));
    }

    #[test]
    fn one_host_without_its_port() {
        assert_eq!(shape(&[]).unwrap().host, "relay.example");
        assert_eq!(shape(&[("Host", "another")]), Err(400));
        for (minor_version, host, expected) in
            [(1, None, Err(400)), (0, None, Ok("relay")), (1, Some("a b"), Err(400)), (1, Some("a/b"), Err(400))]
        {
            let lines = Vec::from_iter(host.map(|host| ("Host", host)));
            let host = Shape::of(&head("GET", minor_version, &lines)).map(|shape| shape.host);
            assert_eq!(host.as_deref().map_err(Rejection::status), expected);
        }
        assert_eq!(Shape::of(&head("CONNECT", 1, &[("Host", "x")])).unwrap_err().status(), 405);
    }

    #[test]
    fn a_listener_hears_nothing_of_the_sender_s_connection_and_credential() {
        let lines = [
            ("Host", "relay.example"),
            ("Connection", "close, X-Hop, Host"),
            ("X-Hop", "1"),
            ("X-Kept", "1"),
            ("x-kept", "2"),
            ("Keep-Alive", "1"),
            ("TE", "trailers"),
            ("Trailer", "x"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Length", "5"),
            ("Upgrade", "h2c"),
            ("Proxy-Connection", "x"),
            ("Close", "x"),
            ("Expect", "100-continue"),
            ("servicebusauthorization", "secret"),
            ("Authorization", "Basic x"),
            ("Via", "1.0 a"),
        ];
        for (consumed, authorization) in [(false, Some("Basic x")), (true, None)] {
            let headers = for_listener(&head("GET", 1, &lines), "relay.example", consumed);
            assert_eq!(headers.get("authorization"), authorization);
            let names =
                headers.iter().map(|(name, _)| name.to_ascii_lowercase()).filter(|name| name != "authorization");
            assert_eq!(names.collect::<Vec<_>>(), ["host", "x-kept", "x-kept", "via", "via"]);
            assert_eq!(headers.all("via").collect::<Vec<_>>(), ["1.0 a", "1.1 relay.example"]);
        }
    }

    #[test]
    fn a_sender_hears_nothing_of_the_listener_s_connection() {
        let mut headers = Headers::default();
        for (name, value) in [
            ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("content-length", "7"),
            ("transfer-encoding", "chunked"),
            ("keep-alive", "1"),
            ("upgrade", "x"),
            ("te", "x"),
            ("trailer", "x"),
        ] {
            headers.push(name, value).unwrap();
        }
        let response = Response { request_id: "x".into(), status: 418, reason: None, headers, body: true };
        let text = |extent, keep| String::from_utf8(for_sender(&response, "ns.example", extent, keep)).unwrap();
        let start = "HTTP/1.1 418 I'm a teapot\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nset-cookie: a=1\r\n\
                     set-cookie: b=2\r\nVia: 1.1 ns.example\r\n";
        assert_eq!(text(Extent::Length(5), true), format!("{start}Content-Length: 5\r\n\r\n"));
        assert_eq!(text(Extent::Chunked, true), format!("{start}Transfer-Encoding: chunked\r\n\r\n"));
        assert_eq!(text(Extent::ToTheEnd, false), format!("{start}Connection: close\r\n\r\n"));
        assert_eq!(text(Extent::Absent, true), format!("{start}\r\n"));
    }
}
