//! Standard input and output as the far end of a stream, made for OpenSSH's `ProxyCommand`: two pipes.
//!
//! A pipe is opened anew, so that making it non-blocking is nobody else's business: the flag belongs to what was opened,
//! and the parent or a sibling may share that. A socket can't be opened anew and is used as it is. Input of any other
//! kind (a terminal, a file) is read by a thread; output of any other kind is written as it comes.
//!
//! Nothing is buffered here: what a write took has left the process.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::pin::Pin;
use std::task::{Context, Poll};

use nix::fcntl::OFlag;
use nix::unistd::{dup2_stdin, dup2_stdout};
use smol::io::{AsyncRead, AsyncWrite};
use smol::{Async, Unblock};
use socket2::SockRef;

/// What a stream reads from and writes to.
pub struct Stdio {
    input: Input,
    /// `None` once closed.
    output: Option<Output>,
}

enum Input {
    Pollable(Async<File>),
    Threaded(Unblock<File>),
}

enum Output {
    Pipe(Async<File>),
    Socket(Async<File>),
    Blocking(File),
}

impl Stdio {
    /// This process' standard input and output, which are `/dev/null` from here on: closing what is returned is what the
    /// other ends see.
    ///
    /// # Errors
    /// One of the two is closed, or the kernel is out of descriptors.
    pub fn take() -> io::Result<Self> {
        let stdio = Self::over(&own(&io::stdin())?, &own(&io::stdout())?)?;
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        Ok(stdio)
    }

    /// The same over other files.
    ///
    /// # Errors
    /// As for [`Stdio::take`].
    pub fn over(input: &File, output: &File) -> io::Result<Self> {
        let kind = input.metadata()?.file_type();
        let input = if kind.is_fifo() {
            match reopen(input, OpenOptions::new().read(true)) {
                Ok(pipe) => Input::Pollable(Async::new(pipe)?),
                // without a /proc
                Err(_) => Input::Threaded(Unblock::new(own(input)?)),
            }
        } else if kind.is_socket() {
            Input::Pollable(Async::new(own(input)?)?)
        } else {
            Input::Threaded(Unblock::new(own(input)?))
        };
        let kind = output.metadata()?.file_type();
        let output = if kind.is_fifo() {
            match reopen(output, OpenOptions::new().write(true)) {
                Ok(pipe) => Output::Pipe(Async::new(pipe)?),
                Err(_) => Output::Blocking(own(output)?),
            }
        } else if kind.is_socket() {
            Output::Socket(Async::new(own(output)?)?)
        } else {
            Output::Blocking(own(output)?)
        };
        Ok(Self { input, output: Some(output) })
    }
}

fn own(file: &impl AsFd) -> io::Result<File> {
    Ok(File::from(file.as_fd().try_clone_to_owned()?))
}

fn reopen(pipe: &File, options: &mut OpenOptions) -> io::Result<File> {
    options.custom_flags(OFlag::O_NONBLOCK.bits()).open(format!("/proc/self/fd/{}", pipe.as_raw_fd()))
}

impl AsyncRead for Stdio {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match &mut self.input {
            Input::Pollable(file) => Pin::new(file).poll_read(cx, buffer),
            Input::Threaded(file) => Pin::new(file).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stdio {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        chunks: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.output {
            Some(Output::Pipe(file) | Output::Socket(file)) => Pin::new(file).poll_write_vectored(cx, chunks),
            Some(Output::Blocking(file)) => Poll::Ready(file.write_vectored(chunks)),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.output.take() {
            // input may be another descriptor of the same socket
            Some(Output::Socket(socket)) => Poll::Ready(SockRef::from(&socket).shutdown(Shutdown::Write)),
            Some(Output::Pipe(_) | Output::Blocking(_)) | None => Poll::Ready(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use smol::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn file(fd: impl Into<OwnedFd>) -> File {
        File::from(fd.into())
    }

    fn is_nonblocking(file: &File) -> bool {
        let flags = nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETFL).unwrap();
        OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK)
    }

    #[test]
    fn pipes_carry_any_bytes_both_ways_and_their_ends() {
        let ((input, mut to_input), (mut from_output, output)) = (pipe().unwrap(), pipe().unwrap());
        let (input, output) = (file(input), file(output));
        let mut stdio = Stdio::over(&input, &output).unwrap();
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        smol::block_on(async {
            let sent = bytes.clone();
            let writer = std::thread::spawn(move || to_input.write_all(&sent));
            let mut back = Vec::new();
            stdio.read_to_end(&mut back).await.unwrap();
            writer.join().unwrap().unwrap();
            assert!(back == bytes, "bytes changed on the way in");
        });
        assert!(!is_nonblocking(&input) && !is_nonblocking(&output), "what others share was changed");
        drop(output);
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            from_output.read_to_end(&mut all).map(|_| all)
        });
        smol::block_on(async {
            stdio.write_all(&bytes).await.unwrap();
            stdio.close().await.unwrap();
            stdio.write_all(b"more").await.expect_err("it is closed");
        });
        assert!(reader.join().unwrap().unwrap() == bytes, "bytes changed on the way out");
    }

    #[test]
    fn one_socket_for_both_is_half_closed() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let near = file(near);
        let mut stdio = Stdio::over(&near, &near).unwrap();
        smol::block_on(async {
            stdio.write_all(b"hello").await.unwrap();
            stdio.close().await.unwrap();
        });
        let mut all = Vec::new();
        far.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"hello");
        far.write_all(b"answer").unwrap();
        drop(far);
        let mut answer = Vec::new();
        smol::block_on(stdio.read_to_end(&mut answer)).unwrap();
        assert_eq!(answer, b"answer");
    }

    #[test]
    fn files_are_read_and_written_too() {
        let directory = tempfile::tempdir().unwrap();
        let (input, output) = (directory.path().join("in"), directory.path().join("out"));
        std::fs::write(&input, "from a file").unwrap();
        let mut stdio = Stdio::over(&File::open(&input).unwrap(), &File::create(&output).unwrap()).unwrap();
        smol::block_on(async {
            let mut all = Vec::new();
            stdio.read_to_end(&mut all).await.unwrap();
            stdio.write_all(&all).await.unwrap();
        });
        drop(stdio);
        assert_eq!(std::fs::read(output).unwrap(), b"from a file");
    }
}
