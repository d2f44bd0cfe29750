//! A relay that does what a script says: each connection is a [`Handshake`] that the test answers as it likes.

use std::{net::TcpListener, sync::Arc};

use async_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role},
    },
};
use smol::{
    Async,
    io::{AsyncReadExt, AsyncWriteExt},
    stream::StreamExt,
};
use umbilical_link::{
    tls::{self, ServerConfig},
    transport::Transport,
    upgrade::{self, Upgraded},
};
use umbilical_relay_protocol::{
    Accept, Action, Headers, Key, ListenerMessage, RelayMessage, RemoteEndpoint, Request, RequestHead, RequestTarget,
    Response, Right, Rule, authorize,
};

use super::soon;

/// The key that listeners use, and its name.
pub const KEY: &str = "bm90IGEgcmVhbCBrZXksIGp1c3QgYSB0ZXN0";
pub const KEY_NAME: &str = "listen";
/// The hybrid connection.
pub const PATH: &str = "gateway-0042";

/// A socket that listens on the loopback device.
pub struct Relay {
    socket: Async<TcpListener>,
    tls: Option<Arc<ServerConfig>>,
}

impl Relay {
    /// Without TLS.
    pub fn new() -> Relay {
        Relay { socket: Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap(), tls: None }
    }

    /// With a certificate for `localhost` of a new authority, whose own certificate is written to `ca.pem`.
    pub fn with_tls(files: &super::files::Directory) -> Relay {
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new([]).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority_certificate = authority.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        files.write("ca.pem", &authority_certificate.pem());
        let certificate = files.write("relay.pem", &certificate.pem());
        let key = files.write("relay.key", &key.serialize_pem());
        Relay { tls: Some(tls::server_config(&certificate, &key).unwrap()), ..Relay::new() }
    }

    /// Where it is, as a listener is told.
    pub fn url(&self) -> String {
        let port = self.socket.get_ref().local_addr().unwrap().port();
        match self.tls {
            Some(_) => format!("wss://localhost:{port}/{PATH}"),
            None => format!("ws://127.0.0.1:{port}/{PATH}"),
        }
    }

    /// An address for a rendezvous on this relay.
    pub fn rendezvous(&self, id: &str) -> String {
        let url = self.url().replace(PATH, &format!("$hc/{PATH}"));
        format!("{url}?sb-hc-action=accept&sb-hc-id={id}")
    }

    /// An address for a request's rendezvous on this relay.
    pub fn request_rendezvous(&self, id: &str) -> String {
        self.rendezvous(id).replace("=accept", "=request")
    }

    /// The next connection's request.
    pub async fn handshake(&self) -> Handshake {
        soon("a connection to the relay", async {
            let (socket, _) = self.socket.accept().await.unwrap();
            let transport = match &self.tls {
                Some(config) => tls::accept(config, socket).await.unwrap(),
                None => Transport::Plain(socket),
            };
            Handshake::read(transport).await
        })
        .await
    }

    /// The next connection, which must be a listener with a good token; it gets its control channel.
    pub async fn listener(&self) -> Control {
        let handshake = self.handshake().await;
        assert_eq!(handshake.target.action(), Action::Listen);
        assert_eq!(handshake.judge(), Ok(()));
        handshake.control().await
    }

    /// The next connection, which must be a listener with this token; it gets its control channel.
    pub async fn listener_with(&self, token: &str) -> Control {
        let handshake = self.handshake().await;
        assert_eq!((handshake.target.action(), handshake.token()), (Action::Listen, token));
        handshake.control().await
    }
}

/// A request for a WebSocket that was read and not answered.
pub struct Handshake {
    pub target: RequestTarget,
    pub raw_target: String,
    pub headers: Headers,
    transport: Transport,
}

impl Handshake {
    async fn read(mut transport: Transport) -> Handshake {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            transport.read_exact(&mut byte).await.unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let raw_target = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
        let mut headers = Headers::default();
        for (name, value) in lines.map(|line| line.split_once(": ").unwrap()) {
            headers.push(name, value).unwrap();
        }
        Handshake { target: RequestTarget::parse(&raw_target).unwrap(), raw_target, headers, transport }
    }

    /// The token.
    pub fn token(&self) -> &str {
        self.headers.get("ServiceBusAuthorization").unwrap()
    }

    /// Whether the token allows to listen at [`PATH`] now.
    pub fn judge(&self) -> Result<(), String> {
        judge(self.token(), now())
    }

    /// Answers with a status line and headers of the test's choice, and closes.
    pub async fn refuse(mut self, status: &str, headers: &str) {
        let response = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\n\r\n");
        self.transport.write_all(response.as_bytes()).await.unwrap();
        self.transport.close().await.unwrap();
    }

    /// Opens the WebSocket and leaves its frames to the test. The subprotocol offered is accepted.
    pub async fn upgrade(self) -> Upgraded {
        self.upgrade_with("").await
    }

    /// The same with further headers in the answer.
    pub async fn upgrade_with(mut self, headers: &str) -> Upgraded {
        let key = derive_accept_key(self.headers.get("Sec-WebSocket-Key").unwrap().as_bytes());
        let subprotocol = self.headers.get("Sec-WebSocket-Protocol").map(str::to_owned);
        let mut response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {key}\r\n{headers}"
        );
        if let Some(name) = &subprotocol {
            response.push_str(&format!("Sec-WebSocket-Protocol: {name}\r\n"));
        }
        response.push_str("\r\n");
        self.transport.write_all(response.as_bytes()).await.unwrap();
        self.transport.flush().await.unwrap();
        Upgraded {
            transport: self.transport,
            leftover: Vec::new(),
            role: upgrade::Role::Server,
            subprotocol,
            date: None,
            zero_mask: false,
            answers_pings: false,
        }
    }

    /// Opens the WebSocket as a control channel.
    pub async fn control(self) -> Control {
        self.control_with("").await
    }

    /// The same with further headers in the answer.
    pub async fn control_with(self, headers: &str) -> Control {
        let transport = self.upgrade_with(headers).await.transport;
        Control(WebSocketStream::from_raw_socket(transport, Role::Server, None).await)
    }
}

/// The relay's end of a control channel.
pub struct Control(pub WebSocketStream<Transport>);

impl Control {
    /// Tells the listener something.
    pub async fn send(&mut self, message: &RelayMessage) {
        self.0.send(Message::text(message.to_json().unwrap())).await.unwrap();
    }

    /// Sends a sender to the listener, who offers `subprotocols`.
    pub async fn accept(&mut self, address: &str, subprotocols: &str) {
        let mut connect_headers = Headers::default();
        connect_headers.push("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA==").unwrap();
        connect_headers.push("Sec-WebSocket-Protocol", subprotocols).unwrap();
        let remote = Some(RemoteEndpoint { address: "203.0.113.9".into(), port: 4711 });
        let accept = Accept { address: address.into(), id: "0000_G0".into(), connect_headers, remote };
        self.send(&RelayMessage::Accept(accept)).await;
    }

    /// Passes on an HTTP request, and its body if it has one.
    pub async fn request(&mut self, head: RequestHead, body: &[u8]) {
        let head = RequestHead { body: !body.is_empty(), ..head };
        self.send(&RelayMessage::Request(Request::Head(head))).await;
        if !body.is_empty() {
            self.0.send(Message::binary(body.to_vec())).await.unwrap();
        }
    }

    /// The next response, and its body if it has one.
    pub async fn response(&mut self) -> (Response, Vec<u8>) {
        let ListenerMessage::Response(response) = self.message().await else { panic!("expected a response") };
        if !response.body {
            return (response, Vec::new());
        }
        match self.frame().await {
            Some(Message::Binary(body)) => (response, body.to_vec()),
            other => panic!("expected the body, got {other:?}"),
        }
    }

    /// The next frame of any kind; `None` at the end.
    pub async fn frame(&mut self) -> Option<Message> {
        soon("a frame of the listener", self.0.next()).await.and_then(Result::ok)
    }

    /// The next message; keep-alive frames are passed over.
    pub async fn message(&mut self) -> ListenerMessage {
        loop {
            match self.frame().await {
                Some(Message::Text(text)) => return ListenerMessage::parse(&text).unwrap(),
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("expected a message, got {other:?}"),
            }
        }
    }

    /// Waits for the listener to close, and gives the code.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            match self.frame().await {
                Some(Message::Close(frame)) => {
                    // the answer leaves with the next look
                    while let Some(Ok(_)) = soon("the end of the connection", self.0.next()).await {}
                    return frame.map(|frame| frame.code.into());
                }
                Some(_) => {}
                None => return None,
            }
        }
    }

    /// Closes with a code and a reason.
    pub async fn close(mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.to_owned().into() };
        self.0.close(Some(frame)).await.unwrap();
        while let Some(Ok(_)) = soon("the listener's close", self.0.next()).await {}
    }
}

/// Whether `token` allows to listen at [`PATH`] at `now`.
pub fn judge(token: &str, now: u64) -> Result<(), String> {
    let rule = Rule {
        name: KEY_NAME.into(),
        primary: Key::new(KEY).unwrap(),
        secondary: None,
        rights: [Right::Listen].into_iter().collect(),
    };
    authorize(token, Right::Listen, PATH, &[rule], &[], now).map(|_| ()).map_err(|error| error.to_string())
}

/// Unix seconds.
pub fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}
