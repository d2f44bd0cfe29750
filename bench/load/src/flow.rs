//! Endless bytes in and out of a socket at the least cost: what the load saves, the tunnels under test can use.
//!
//! Sending takes pages of a file (`std::io::copy` from a file to a socket is `sendfile`); receiving throws away in the
//! kernel (`MSG_TRUNC`, tcp(7)), so neither copies to or from this process.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::SockRef;

/// tcp(7): received bytes are discarded instead of passed back; the same value on every Linux architecture.
const MSG_TRUNC: i32 = 0x20;
/// Discarded by one call at most.
const DISCARD: usize = 1 << 20;
/// Size of the file that is sent over and over.
const FILE: usize = 8 << 20;

/// A file of bytes that do not compress, already unlinked.
pub(crate) fn source_file() -> io::Result<File> {
    let path = std::env::temp_dir().join(format!("umbilical-bench-load-{}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(FILE);
    while bytes.len() < FILE {
        // xorshift64: noise enough against compression
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_ne_bytes());
    }
    file.write_all(&bytes)?;
    Ok(file)
}

/// Sends the file over and over, until the other side or this process is gone.
pub(crate) fn pour(mut file: File, mut socket: &TcpStream) -> io::Result<()> {
    loop {
        file.seek(SeekFrom::Start(0))?;
        let whole = io::copy(&mut (&file).take(FILE as u64), &mut socket)?;
        if whole == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Throws away all that comes until the end of the stream, counting it.
pub(crate) fn discard(socket: &TcpStream, count: &AtomicU64) -> io::Result<()> {
    let socket = SockRef::from(socket);
    // The kernel writes nothing into it with MSG_TRUNC: it stays untouched and costs no memory.
    let mut nowhere: Vec<u8> = Vec::with_capacity(DISCARD);
    loop {
        match socket.recv_with_flags(nowhere.spare_capacity_mut(), MSG_TRUNC) {
            Ok(0) => return Ok(()),
            Ok(taken) => {
                count.fetch_add(taken as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn what_is_poured_is_counted_and_not_constant() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sending = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiving, _) = listener.accept().unwrap();
        let mut file = source_file().unwrap();
        let mut seen = vec![0; FILE];
        file.rewind().unwrap();
        file.read_exact(&mut seen).unwrap();
        assert!((0..=u8::MAX).all(|byte| seen[..65536].contains(&byte)));

        let total = FILE as u64 + 1234;
        let sender = std::thread::spawn(move || {
            file.rewind().unwrap();
            io::copy(&mut (&file).take(FILE as u64), &mut (&sending)).unwrap();
            (&sending).write_all(&[7; 1234]).unwrap();
        });
        let count = AtomicU64::new(0);
        discard(&receiving, &count).unwrap();
        sender.join().unwrap();
        assert_eq!(count.into_inner(), total);
    }
}
