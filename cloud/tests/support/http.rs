//! The two ends of a relayed HTTP request: a sender that says exactly what a test wants said, and a listener that answers
//! by hand.

use async_tungstenite::tungstenite::Message;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::stream::StreamExt;
use umbilical_link::transport::Transport;
use umbilical_relay_protocol::{RelayMessage, Rendezvous, Request, RequestHead};

use super::{Answer, Listener, Socket, TestRelay, message, token};

/// A sender's connection.
pub(crate) struct HttpClient(pub(crate) Transport);

/// A response as it came.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) head: Answer,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl TestRelay {
    pub(crate) async fn client(&self) -> HttpClient {
        HttpClient(self.dial().await)
    }

    /// Sends a request with a token on a connection of its own, and does not wait.
    pub(crate) async fn request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> HttpClient {
        let mut client = self.client().await;
        client.request(method, target, headers, body).await;
        client
    }
}

impl HttpClient {
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// A head with these lines besides `Host`.
    pub(crate) async fn head(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) {
        let lines = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<String>();
        self.write(format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n").as_bytes()).await;
    }

    /// With a token, and `Content-Length` if there is a body.
    pub(crate) async fn request(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) {
        let entity = target.trim_start_matches('/').split(['/', '?']).next().unwrap();
        let (token, length) = (token(entity, "send"), body.len().to_string());
        let mut lines = [headers, &[("ServiceBusAuthorization", token.as_str())]].concat();
        if !body.is_empty() {
            lines.push(("Content-Length", &length));
        }
        self.head(method, target, &lines).await;
        self.write(body).await;
    }

    /// The response, which has a body.
    pub(crate) async fn reply(&mut self) -> Reply {
        let head = Answer::read(&mut self.0).await;
        let mut body = Vec::new();
        if head.header("Transfer-Encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk().await {
                body.extend_from_slice(&chunk);
            }
        } else if let Some(length) = head.header("Content-Length") {
            body.resize(length.parse().unwrap(), 0);
            self.0.read_exact(&mut body).await.unwrap();
        } else {
            self.0.read_to_end(&mut body).await.unwrap();
        }
        Reply { head, body }
    }

    /// The response to a `HEAD`, a 204, a 304: its head is all of it.
    pub(crate) async fn bare_reply(&mut self) -> Answer {
        Answer::read(&mut self.0).await
    }

    /// The next chunk of a body; `None` for the last, empty one.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = usize::from_str_radix(&self.line().await, 16).unwrap();
        let mut chunk = vec![0; size + 2];
        self.0.read_exact(&mut chunk).await.unwrap();
        assert!(chunk.ends_with(b"\r\n"), "{chunk:?}");
        chunk.truncate(size);
        (size > 0).then_some(chunk)
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).await.unwrap();
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    /// Waits for the end of the connection; nothing else may come.
    pub(crate) async fn ended(&mut self) {
        let mut rest = Vec::new();
        let _ = self.0.read_to_end(&mut rest).await;
        assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(&rest));
    }
}

/// `POST` with a chunked body, of which nothing has been sent yet.
pub(crate) async fn begin_chunked(relay: &TestRelay, target: &str) -> HttpClient {
    let entity = target.trim_start_matches('/').split(['/', '?']).next().unwrap();
    let mut client = relay.client().await;
    let token = token(entity, "send");
    client.head("POST", target, &[("ServiceBusAuthorization", &token), ("Transfer-Encoding", "chunked")]).await;
    client
}

pub(crate) fn chunk(bytes: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

impl Listener {
    /// The next request message.
    pub(crate) async fn told(&mut self) -> Request {
        request_in(message(&mut self.control).await)
    }

    /// The next request, which must be whole, and its body.
    pub(crate) async fn whole_request(&mut self) -> (RequestHead, Vec<u8>) {
        whole_request(&mut self.control).await
    }

    /// The next request, which must be one to be fetched: the socket where it is.
    pub(crate) async fn fetch(&mut self) -> Socket {
        match self.told().await {
            Request::Fetch { address } => self.relay.open(&target_in(&address), &[]).await,
            Request::Head(head) => panic!("not to be fetched: {}", head.request_target),
        }
    }

    /// Answers over the control channel with 200.
    pub(crate) async fn answer(&mut self, id: &str, body: &[u8]) {
        answer(&mut self.control, id, body).await;
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.control.send(Message::text(text)).await.unwrap();
    }
}

/// The next request on a socket and its body.
pub(crate) async fn whole_request(socket: &mut Socket) -> (RequestHead, Vec<u8>) {
    let Request::Head(head) = request_in(message(socket).await) else { panic!("a request to be fetched") };
    let body = if head.body { binary(socket).await } else { Vec::new() };
    (head, body)
}

/// The head of the next request on a socket.
pub(crate) async fn request_head(socket: &mut Socket) -> RequestHead {
    let Request::Head(head) = request_in(message(socket).await) else { panic!("a request to be fetched") };
    head
}

pub(crate) async fn binary(socket: &mut Socket) -> Vec<u8> {
    match socket.next().await.expect("a body").unwrap() {
        Message::Binary(body) => body.into(),
        other => panic!("not a body: {other:?}"),
    }
}

/// Answers 200 with a body.
pub(crate) async fn answer(socket: &mut Socket, id: &str, body: &[u8]) {
    socket.send(Message::text(response(id, 200, true))).await.unwrap();
    socket.send(Message::binary(body.to_vec())).await.unwrap();
}

pub(crate) fn response(id: &str, status: u16, body: bool) -> String {
    format!(r#"{{"response":{{"requestId":"{id}","statusCode":{status},"body":{body}}}}}"#)
}

fn request_in(message: Message) -> Request {
    let Message::Text(text) = message else { panic!("not a request: {message:?}") };
    match RelayMessage::parse(&text).unwrap() {
        RelayMessage::Request(request) => request,
        other => panic!("not a request: {other:?}"),
    }
}

/// What to dial for an address.
pub(crate) fn target_in(address: &str) -> String {
    Rendezvous::parse(address).unwrap().path_and_query().to_owned()
}
