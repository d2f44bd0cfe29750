//! News of the clock from the kernel (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`): somebody has set it, or the device has
//! slept. Delays and silences are measured by a clock that stands still in sleep, so they are waited out afterwards
//! unless somebody says so.

use std::{io, time::Duration};

use nix::{
    sys::{
        time::{TimeSpec, TimeValLike},
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time::{ClockId as Clock, clock_gettime},
};
use smol::Async;

/// Sleep shorter than this leaves connections as they were.
const SHORT_SLEEP: Duration = Duration::from_secs(1);

/// Far from any time that is ever set, in Unix seconds: the year 2200; where seconds have 32 bits, their last one.
const NEVER: i64 = if cfg!(target_pointer_width = "32") { i32::MAX as i64 } else { 7_258_118_400 };

/// Hears of changes of this machine's clock, from its making on.
#[derive(Debug)]
pub struct ClockNews {
    timer: Async<TimerFd>,
    asleep: Duration,
}

/// What has happened to the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jump {
    /// It was set.
    Set,
    /// The device has slept for so long.
    Slept(Duration),
}

impl ClockNews {
    /// Starts to listen.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<ClockNews> {
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        let news = ClockNews { timer: Async::new(timer)?, asleep: asleep() };
        news.arm()?;
        Ok(news)
    }

    /// Waits until the clock jumps.
    ///
    /// # Errors
    /// The kernel's; no more news will come.
    pub async fn jumped(&mut self) -> io::Result<Jump> {
        self.timer.readable().await?;
        // it never expires: what can be read is that it was cancelled
        self.arm()?;
        let before = std::mem::replace(&mut self.asleep, asleep());
        Ok(jump(before, self.asleep))
    }

    fn arm(&self) -> io::Result<()> {
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
        // setting it anew tells of the cancellation as well, and once
        match self.timer.get_ref().set(Expiration::OneShot(TimeSpec::seconds(NEVER)), flags) {
            Ok(()) | Err(nix::Error::ECANCELED) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What it was, by how long the machine had slept before and has now.
fn jump(before: Duration, now: Duration) -> Jump {
    let slept = now.saturating_sub(before);
    if slept < SHORT_SLEEP { Jump::Set } else { Jump::Slept(slept) }
}

/// How long this machine has slept since it was started.
fn asleep() -> Duration {
    let read = |clock| clock_gettime(clock).map_or(Duration::ZERO, Duration::from);
    read(Clock::CLOCK_BOOTTIME).saturating_sub(read(Clock::CLOCK_MONOTONIC))
}

#[cfg(test)]
mod tests {
    use nix::{Error, time::clock_settime};
    use smol::{Timer, future};

    use super::*;

    #[test]
    fn sleep_is_told_from_a_clock_that_is_set() {
        let seconds = Duration::from_secs;
        assert_eq!(jump(seconds(5), seconds(5) + Duration::from_micros(20)), Jump::Set);
        assert_eq!(jump(seconds(5), seconds(65)), Jump::Slept(seconds(60)));
    }

    #[test]
    fn a_clock_that_is_set_is_news_each_time_and_one_that_is_not_is_none() {
        smol::block_on(async {
            let mut news = ClockNews::new().unwrap();
            assert!(future::poll_once(news.jumped()).await.is_none());
            for _ in 0..2 {
                // to what it is: any setting is one
                match clock_settime(Clock::CLOCK_REALTIME, clock_gettime(Clock::CLOCK_REALTIME).unwrap()) {
                    Err(Error::EPERM) => return, // only root may, and nobody else can try this
                    set => set.unwrap(),
                }
                let late = async {
                    Timer::after(Duration::from_secs(20)).await;
                    panic!("no news");
                };
                assert_eq!(future::or(news.jumped(), late).await.unwrap(), Jump::Set);
            }
        });
    }
}
