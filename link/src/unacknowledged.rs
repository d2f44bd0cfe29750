//! Whether the other end of a TCP connection still acknowledges, as the kernel has it (`TCP_INFO`, linux/tcp.h).
//!
//! A dead path shows by that alone where nobody has to answer what is said. TCP itself waits for a quarter of an hour, and
//! its `TCP_USER_TIMEOUT` would also end a connection whose other end is alive and takes nothing for a while: here that one
//! owes nothing, as long as it answers the probes of its closed window.

use std::io;
use std::mem;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// So many probes of a closed window in a row go unanswered before that counts; one may be lost, and the next one is minutes
/// away.
const LOST_PROBES: u8 = 2;

/// Watches one connection, by looking at it now and then.
#[derive(Debug, Default)]
pub(crate) struct Unacknowledged {
    /// Since when something was owed at each look, and no acknowledgement came.
    since: Option<Instant>,
}

impl Unacknowledged {
    /// Looks once more: how long nothing was acknowledged although something was owed, as far as it was seen.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn look(&mut self, socket: &TcpStream) -> io::Result<Duration> {
        let heard = last_acknowledgement(socket)?;
        Ok(self.judge(heard, Instant::now()))
    }

    fn judge(&mut self, heard: Option<Duration>, now: Instant) -> Duration {
        let Some(heard) = heard else {
            self.since = None;
            return Duration::ZERO;
        };
        let since = self.since.get_or_insert(now);
        if heard < now - *since {
            *since = now;
        }
        now - *since
    }
}

/// How long ago the last acknowledgement came; `None` if none is owed.
#[allow(unsafe_code, reason = "no safe wrapper exists")]
fn last_acknowledgement(socket: &TcpStream) -> io::Result<Option<Duration>> {
    // SAFETY: `tcp_info` is made of integers, for which zeros are a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).expect("a few hundred bytes");
    // SAFETY: the descriptor is open, as `socket` is borrowed; getsockopt(2) writes at most `length` bytes, which is what
    // `info` has, and any bytes are a value of it. An older kernel writes less and leaves zeros.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut info).cast(), &raw mut length)
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    let owed = info.tcpi_unacked > 0 || info.tcpi_probes >= LOST_PROBES;
    Ok(owed.then(|| Duration::from_millis(info.tcpi_last_ack_recv.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_from_the_first_look_at_which_something_was_owed_and_unheard() {
        let (start, mut watch) = (Instant::now(), Unacknowledged::default());
        let mut judge = |heard: Option<u64>, now| {
            watch.judge(heard.map(Duration::from_secs), start + Duration::from_secs(now)).as_secs()
        };
        assert_eq!(judge(None, 0), 0);
        // it was idle before
        assert_eq!(judge(Some(1000), 15), 0);
        assert_eq!(judge(Some(1015), 30), 15);
        assert_eq!(judge(Some(1030), 45), 30);
        // something came, and more is owed
        assert_eq!(judge(Some(3), 60), 0);
        assert_eq!(judge(Some(18), 75), 15);
        assert_eq!(judge(None, 90), 0);
        assert_eq!(judge(Some(0), 105), 0);
    }
}
