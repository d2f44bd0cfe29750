//! Connections that are open and do nothing: `hold` opens `--streams` of them, prints how many it has as
//! `{"held": N}`, and keeps them until its standard input ends. With `--stalled` each has asked for a download that it
//! never reads; without, each has had one byte echoed.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use crate::arguments::Arguments;

pub(crate) fn run(arguments: &Arguments) -> io::Result<()> {
    let held: Vec<TcpStream> = (0..arguments.streams).filter_map(|_| open(arguments).ok()).collect();
    crate::say(&format!(r#"{{"held": {}}}"#, held.len()))?;
    io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ())
}

fn open(arguments: &Arguments) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect_timeout(&arguments.to()?, arguments.patience)?;
    if arguments.stalled {
        socket.write_all(b"S")?;
        return Ok(socket);
    }
    socket.set_read_timeout(Some(arguments.patience))?;
    socket.write_all(b"Ex")?;
    socket.read_exact(&mut [0])?;
    Ok(socket)
}
