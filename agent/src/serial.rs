//! A serial line as the far end of a stream: bytes go out and come in as they are (termios(3), raw).
//!
//! It belongs to one stream at a time, by flock(2), which other programs respect that do the same. Owns: opening, settings,
//! the end. Leaves to others: what the settings are (`config`).
//!
//! A serial line has no end that it could tell. When the client has said all, what the device still answers is waited for
//! until the line has been silent for a second; then the stream ends.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use nix::{
    fcntl::OFlag,
    sys::termios::{
        BaudRate, ControlFlags, FlushArg, InputFlags, SetArg, Termios, cfmakeraw, cfsetspeed, tcflush, tcgetattr,
        tcsetattr,
    },
};
use smol::{
    Async, Timer,
    future::FutureExt,
    io::{AsyncRead, AsyncWrite},
};

use crate::config::{Flow, Parity, SerialLine};

/// Silence that is taken for the end of an answer, once the client has said all.
const SILENCE: Duration = Duration::from_secs(1);

/// An open line.
#[derive(Debug)]
pub struct SerialPort {
    /// `None` only while it is dropped.
    line: Option<Async<File>>,
    /// Runs since the client has said all, or since something came then.
    ending: Option<Timer>,
    reader: Option<Waker>,
}

impl SerialPort {
    /// Opens a line, and forgets what had come before.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::ResourceBusy`] if somebody else has it.
    pub fn open(line: &SerialLine) -> io::Result<SerialPort> {
        let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(&line.path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(io::ErrorKind::ResourceBusy.into()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut termios = tcgetattr(&file)?;
        set(&mut termios, line)?;
        tcsetattr(&file, SetArg::TCSANOW, &termios)?;
        tcflush(&file, FlushArg::TCIOFLUSH)?;
        Ok(SerialPort { line: Some(Async::new(file)?), ending: None, reader: None })
    }

    fn line(&mut self) -> Pin<&mut Async<File>> {
        Pin::new(self.line.as_mut().expect("it is there until it is dropped"))
    }
}

fn set(termios: &mut Termios, line: &SerialLine) -> io::Result<()> {
    cfmakeraw(termios);
    cfsetspeed(termios, rate(line.baud))?;
    let control = &mut termios.control_flags;
    // a board that is reset by DTR is not, each time that a stream ends
    control.remove(ControlFlags::CSIZE | ControlFlags::PARENB | ControlFlags::PARODD | ControlFlags::CSTOPB);
    control.remove(ControlFlags::CRTSCTS | ControlFlags::HUPCL);
    control.insert(ControlFlags::CLOCAL | ControlFlags::CREAD);
    control.insert(match line.data {
        5 => ControlFlags::CS5,
        6 => ControlFlags::CS6,
        7 => ControlFlags::CS7,
        _ => ControlFlags::CS8,
    });
    control.insert(match line.parity {
        Parity::None => ControlFlags::empty(),
        Parity::Even => ControlFlags::PARENB,
        Parity::Odd => ControlFlags::PARENB | ControlFlags::PARODD,
    });
    control.set(ControlFlags::CSTOPB, line.stop == 2);
    control.set(ControlFlags::CRTSCTS, line.flow == Flow::Hardware);
    termios.input_flags.set(InputFlags::IXON | InputFlags::IXOFF, line.flow == Flow::Software);
    Ok(())
}

fn rate(baud: u32) -> BaudRate {
    match baud {
        300 => BaudRate::B300,
        600 => BaudRate::B600,
        1200 => BaudRate::B1200,
        1800 => BaudRate::B1800,
        2400 => BaudRate::B2400,
        4800 => BaudRate::B4800,
        19_200 => BaudRate::B19200,
        38_400 => BaudRate::B38400,
        57_600 => BaudRate::B57600,
        115_200 => BaudRate::B115200,
        230_400 => BaudRate::B230400,
        460_800 => BaudRate::B460800,
        500_000 => BaudRate::B500000,
        576_000 => BaudRate::B576000,
        921_600 => BaudRate::B921600,
        1_000_000 => BaudRate::B1000000,
        1_500_000 => BaudRate::B1500000,
        2_000_000 => BaudRate::B2000000,
        3_000_000 => BaudRate::B3000000,
        _ => BaudRate::B9600,
    }
}

impl AsyncRead for SerialPort {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = self.line().poll_read(cx, buffer);
        match (read, &mut self.ending) {
            (Poll::Ready(Ok(count)), Some(ending)) if count > 0 => {
                ending.set_after(SILENCE);
                Poll::Ready(Ok(count))
            }
            (Poll::Pending, Some(ending)) => {
                ready!(ending.poll(cx));
                Poll::Ready(Ok(0))
            }
            (Poll::Pending, None) => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
            (read, _) => read,
        }
    }
}

impl AsyncWrite for SerialPort {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.line().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line().poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ending.get_or_insert_with(|| Timer::after(SILENCE));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for SerialPort {
    /// The kernel waits up to half a minute for what was written to leave: not on the thread that everything runs on.
    fn drop(&mut self) {
        if let Some(Ok(file)) = self.line.take().map(Async::into_inner) {
            smol::unblock(move || drop(file)).detach();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, io::Write, path::PathBuf};

    use nix::{
        fcntl::OFlag,
        pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt},
        sys::termios::{LocalFlags, cfgetospeed},
    };
    use smol::{
        future,
        io::{AsyncReadExt, AsyncWriteExt},
    };

    use super::*;

    /// The far side of a line, and the line. There is no parity on a pseudo-terminal.
    fn line() -> (PtyMaster, SerialLine) {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let path = PathBuf::from(ptsname_r(&master).unwrap());
        let line = SerialLine { path, baud: 19_200, data: 8, parity: Parity::None, stop: 2, flow: Flow::None };
        (master, line)
    }

    #[test]
    fn the_line_is_set_as_configured() {
        let (_master, line) = line();
        let port = SerialPort::open(&line).unwrap();
        let set = tcgetattr(port.line.as_ref().unwrap().get_ref()).unwrap();
        assert_eq!(cfgetospeed(&set), BaudRate::B19200);
        assert_eq!(set.control_flags & ControlFlags::CSIZE, ControlFlags::CS8);
        assert!(set.control_flags.contains(ControlFlags::CSTOPB | ControlFlags::CLOCAL));
        assert!(!set.control_flags.contains(ControlFlags::HUPCL));
        assert!(!set.local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
        drop(port);
        for (flow, input, control) in [
            (Flow::Software, InputFlags::IXON | InputFlags::IXOFF, ControlFlags::empty()),
            (Flow::Hardware, InputFlags::empty(), ControlFlags::CRTSCTS),
            (Flow::None, InputFlags::empty(), ControlFlags::empty()),
        ] {
            let mut termios = tcgetattr(File::open(&line.path).unwrap()).unwrap();
            let line = SerialLine { flow, parity: Parity::Odd, data: 7, ..line.clone() };
            super::set(&mut termios, &line).unwrap();
            assert_eq!(termios.input_flags & (InputFlags::IXON | InputFlags::IXOFF), input);
            assert_eq!(termios.control_flags & ControlFlags::CRTSCTS, control);
            assert!(termios.control_flags.contains(ControlFlags::PARENB | ControlFlags::PARODD));
            assert_eq!(termios.control_flags & ControlFlags::CSIZE, ControlFlags::CS7);
        }
    }

    #[test]
    fn every_rate_is_itself() {
        for baud in SerialLine::BAUDS {
            assert_eq!(format!("{:?}", rate(baud)), format!("B{baud}"));
        }
    }

    #[test]
    fn every_byte_passes_unchanged_both_ways() {
        let (mut master, line) = line();
        let mut port = SerialPort::open(&line).unwrap();
        let all: Vec<u8> = (0..=255).collect();
        smol::block_on(async {
            port.write_all(&all).await.unwrap();
            let mut seen = [0; 256];
            master.read_exact(&mut seen).unwrap();
            assert_eq!(&seen[..], all);
            master.write_all(&all).unwrap();
            port.read_exact(&mut seen).await.unwrap();
            assert_eq!(&seen[..], all);
        });
    }

    #[test]
    fn it_belongs_to_one_at_a_time_and_old_words_are_forgotten() {
        let (mut master, line) = line();
        let port = SerialPort::open(&line).unwrap();
        assert_eq!(SerialPort::open(&line).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        master.write_all(b"old").unwrap();
        drop(port);
        // it is closed on another thread
        let mut port = loop {
            match SerialPort::open(&line) {
                Ok(port) => break port,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::ResourceBusy),
            }
        };
        master.write_all(b"new").unwrap();
        let mut seen = [0; 3];
        smol::block_on(port.read_exact(&mut seen)).unwrap();
        assert_eq!(&seen, b"new");
    }

    #[test]
    fn an_answer_is_waited_for_when_the_client_has_said_all() {
        let (mut master, line) = line();
        let mut port = SerialPort::open(&line).unwrap();
        let (mut reading, mut writing) = smol::io::split(&mut port);
        smol::block_on(async {
            let answer = async {
                writing.write_all(b"?").await.unwrap();
                // the reader waits already
                future::yield_now().await;
                writing.close().await.unwrap();
                let mut asked = [0];
                master.read_exact(&mut asked).unwrap();
                master.write_all(b"42").unwrap();
            };
            let mut answered = Vec::new();
            future::zip(async { reading.read_to_end(&mut answered).await.unwrap() }, answer).await;
            assert_eq!(answered, b"42");
        });
    }

    #[test]
    fn what_is_no_serial_line_is_not_opened() {
        let line = SerialLine { path: "/dev/null".into(), ..line().1 };
        SerialPort::open(&line).unwrap_err();
        SerialPort::open(&SerialLine { path: "/dev/no-such-line".into(), ..line }).unwrap_err();
    }
}
