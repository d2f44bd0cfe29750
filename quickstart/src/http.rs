//! One GET request, as small as HTTP allows.

use std::{io, net::SocketAddr, time::Duration};

use smol::{
    Timer, future,
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Longest answer that is read, head included, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;
const WITHIN: Duration = Duration::from_secs(5);

/// The body of `http://address/path`.
///
/// # Errors
/// There is no answer within five seconds, or it is none with status 200.
pub(crate) async fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        // HTTP/1.0: the answer ends with the connection and comes in one piece.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let give_up = async {
        Timer::after(WITHIN).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    body(&future::or(ask, give_up).await?)
}

fn body(answer: &str) -> io::Result<String> {
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed without an answer"));
    }
    let (head, body) =
        answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no HTTP answer"))?;
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, head.lines().next().unwrap_or_default().to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::body;

    #[test]
    fn only_a_whole_answer_with_status_200_has_a_body() {
        assert_eq!(body("HTTP/1.1 200 OK\r\nA: b\r\n\r\n{}").unwrap(), "{}");
        assert_eq!(body("HTTP/1.1 404 Not Found\r\n\r\n{}").unwrap_err().to_string(), "HTTP/1.1 404 Not Found");
        assert!(body("").is_err());
        assert!(body("HTTP/1.1 200 OK\r\nA: b").is_err());
    }
}
