//! An HTTP service that does what a script says: each request is answered with bytes of the test's choice.

use std::net::TcpListener;

use smol::{
    Async,
    io::{AsyncReadExt, AsyncWriteExt},
};

use super::soon;

/// A socket that listens on the loopback device.
pub struct Service(Async<TcpListener>);

impl Service {
    /// A new one.
    pub fn new() -> Service {
        Service(Async::<TcpListener>::bind(([127, 0, 0, 1], 0)).unwrap())
    }

    /// Where it is.
    pub fn port(&self) -> u16 {
        self.0.get_ref().local_addr().unwrap().port()
    }

    /// The next connection's request, up to the end of its head.
    pub async fn request(&self) -> ServiceRequest {
        soon("a request to the service", async {
            let (mut socket, _) = self.0.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                socket.read_exact(&mut byte).await.unwrap();
                head.push(byte[0]);
            }
            ServiceRequest { head: String::from_utf8(head).unwrap(), socket }
        })
        .await
    }
}

/// A request that was read and not answered.
pub struct ServiceRequest {
    pub head: String,
    pub socket: Async<std::net::TcpStream>,
}

impl ServiceRequest {
    /// The request line.
    pub fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    /// The value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// Reads so many bytes of body.
    pub async fn body(&mut self, length: usize) -> Vec<u8> {
        let mut body = vec![0; length];
        soon("the request's body", self.socket.read_exact(&mut body)).await.unwrap();
        body
    }

    /// Sends bytes, and keeps the connection.
    pub async fn send(&mut self, bytes: &[u8]) {
        soon("room for a response", self.socket.write_all(bytes)).await.unwrap();
    }

    /// Sends a whole response: status line, fields that end with CRLF each, and a body with its length.
    pub async fn answer(mut self, status: &str, fields: &str, body: &str) {
        let length = body.len();
        self.send(format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\n\r\n{body}").as_bytes()).await;
    }
}
