//! When an idle connection must be spoken on, and when its silence means that it is dead. Pure: time is an argument,
//! counted from any fixed point.
//!
//! Nobody answers an unasked Pong, so silence alone proves nothing. What proves it: an unanswered Ping, if pings are sent;
//! or the absence of keep-alive frames of a relay that used to send them. A path that is broken further down is
//! noticed by TCP, which gives up on our own keep-alive frames.

use std::time::Duration;

use crate::config::KeepAliveFrame;

/// How long an answer to a Ping may take at most; no longer than the silence that it broke. With the default interval of a
/// minute, a dead connection is noticed within 75 s, as a dead link is.
const ANSWER: Duration = Duration::from_secs(15);
/// A relay that has kept an interval may be late by this many of them.
const LATE: u32 = 3;

/// The silence on one connection.
#[derive(Debug)]
pub struct Silence {
    every: Duration,
    frame: KeepAliveFrame,
    /// When we last wrote anything.
    written: Duration,
    /// When we last read anything.
    read: Duration,
    /// When the oldest unanswered Ping was sent.
    asked: Option<Duration>,
    /// Whether there is reason to ask at once.
    doubted: bool,
    /// When the relay last sent a keep-alive frame, and the longest pause before one.
    heard: Option<Duration>,
    pause: Option<Duration>,
}

/// What silence calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time.
    WaitUntil(Duration),
    /// Send a keep-alive frame now.
    Send(KeepAliveFrame),
    /// The connection is dead: nothing was read for this long.
    Dead(Duration),
}

impl Silence {
    /// A connection that was just established.
    #[must_use]
    pub fn new(every: Duration, frame: KeepAliveFrame, now: Duration) -> Silence {
        Silence { every, frame, written: now, read: now, asked: None, doubted: false, heard: None, pause: None }
    }

    /// What to do now.
    #[must_use]
    pub fn step(&self, now: Duration) -> Step {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            return Step::Dead(now.saturating_sub(self.read));
        }
        let speak = self.quiet_since() + self.every;
        if speak <= now || self.doubted {
            return Step::Send(self.frame);
        }
        Step::WaitUntil(self.deadline().map_or(speak, |deadline| deadline.min(speak)))
    }

    /// There is reason to believe that the connection is dead: a Ping is due. Where none are sent nothing can be asked.
    pub fn doubt(&mut self) {
        self.doubted = self.frame == KeepAliveFrame::Ping && self.asked.is_none();
    }

    /// Something was written.
    pub fn wrote(&mut self, now: Duration) {
        self.written = now;
    }

    /// A keep-alive frame was written.
    pub fn wrote_keep_alive(&mut self, now: Duration) {
        self.wrote(now);
        self.doubted = false;
        if self.frame == KeepAliveFrame::Ping {
            self.asked.get_or_insert(now);
        }
    }

    /// Anything was read: the connection lives.
    pub fn read(&mut self, now: Duration) {
        self.read = now;
        self.asked = None;
        self.doubted = false;
    }

    /// A Ping or Pong of the relay was read.
    pub fn read_keep_alive(&mut self, now: Duration) {
        // Answers to our own Pings say nothing of an interval that the relay keeps by itself.
        if self.asked.is_none() {
            if let Some(heard) = self.heard {
                self.pause = self.pause.max(Some(now.saturating_sub(heard)));
            }
            self.heard = Some(now);
        }
        self.read(now);
    }

    /// A Ping is for an answer, so it is due also when only the relay is silent.
    fn quiet_since(&self) -> Duration {
        match self.frame {
            KeepAliveFrame::Ping if self.asked.is_none() => self.written.min(self.read),
            _ => self.written,
        }
    }

    fn grace(&self) -> Duration {
        self.every.min(ANSWER)
    }

    fn deadline(&self) -> Option<Duration> {
        let unanswered = self.asked.map(|asked| asked + self.grace());
        let silent = self.pause.map(|pause| self.read + pause * LATE + self.grace());
        match (unanswered, silent) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1000 + seconds)
    }

    fn new(frame: KeepAliveFrame) -> Silence {
        Silence::new(EVERY, frame, at(0))
    }

    #[test]
    fn silence_of_our_own_is_broken_in_time() {
        let mut silence = new(KeepAliveFrame::Pong);
        assert_eq!(silence.step(at(0)), Step::WaitUntil(at(60)));
        assert_eq!(silence.step(at(60)), Step::Send(KeepAliveFrame::Pong));
        silence.wrote_keep_alive(at(60));
        assert_eq!(silence.step(at(60)), Step::WaitUntil(at(120)));
        silence.wrote(at(100));
        assert_eq!(silence.step(at(120)), Step::WaitUntil(at(160)));
    }

    #[test]
    fn an_unanswered_ping_is_death_and_any_answer_is_life() {
        let mut silence = new(KeepAliveFrame::Ping);
        silence.wrote_keep_alive(at(60));
        assert_eq!(silence.step(at(61)), Step::WaitUntil(at(75)));
        assert_eq!(silence.step(at(75)), Step::Dead(Duration::from_secs(75)));
        silence.read(at(74));
        assert_eq!(silence.step(at(75)), Step::WaitUntil(at(120)));
    }

    #[test]
    fn who_is_doubted_is_asked_at_once_and_only_once() {
        let mut silence = new(KeepAliveFrame::Ping);
        silence.doubt();
        assert_eq!(silence.step(at(1)), Step::Send(KeepAliveFrame::Ping));
        silence.wrote_keep_alive(at(1));
        silence.doubt();
        assert_eq!(silence.step(at(2)), Step::WaitUntil(at(16)));
        assert_eq!(silence.step(at(16)), Step::Dead(Duration::from_secs(16)));
        silence.read(at(15));
        assert_eq!(silence.step(at(16)), Step::WaitUntil(at(61)));

        let mut silence = new(KeepAliveFrame::Pong);
        silence.doubt();
        assert_eq!(silence.step(at(1)), Step::WaitUntil(at(60)), "a Pong asks for nothing");
    }

    #[test]
    fn a_relay_that_only_listens_is_asked_all_the_same() {
        let mut silence = new(KeepAliveFrame::Ping);
        silence.wrote(at(50));
        assert_eq!(silence.step(at(50)), Step::WaitUntil(at(60)));
        assert_eq!(silence.step(at(60)), Step::Send(KeepAliveFrame::Ping));
        silence.wrote_keep_alive(at(60));
        silence.wrote(at(70));
        assert_eq!(silence.step(at(70)), Step::WaitUntil(at(75)));
        assert_eq!(silence.step(at(75)), Step::Dead(Duration::from_secs(75)));
    }

    #[test]
    fn pongs_that_nobody_answers_prove_nothing() {
        let mut silence = new(KeepAliveFrame::Pong);
        for minute in 1..100 {
            assert_eq!(silence.step(at(minute * 60)), Step::Send(KeepAliveFrame::Pong));
            silence.wrote_keep_alive(at(minute * 60));
        }
    }

    #[test]
    fn a_relay_that_kept_an_interval_and_falls_silent_is_dead() {
        let mut silence = new(KeepAliveFrame::Pong);
        silence.read_keep_alive(at(30));
        silence.read_keep_alive(at(60));
        silence.wrote(at(165));
        assert_eq!(silence.step(at(164)), Step::WaitUntil(at(60 + 90 + 15)));
        assert_eq!(silence.step(at(165)), Step::Dead(Duration::from_secs(105)));
    }

    #[test]
    fn the_longest_pause_counts() {
        let mut silence = new(KeepAliveFrame::Pong);
        for second in [10, 220, 230] {
            silence.read_keep_alive(at(second));
            silence.wrote(at(second));
        }
        silence.wrote(at(860));
        assert_eq!(silence.step(at(860)), Step::WaitUntil(at(230 + 3 * 210 + 15)));
    }

    #[test]
    fn answers_to_pings_set_no_interval() {
        let mut silence = new(KeepAliveFrame::Ping);
        for second in [60, 120, 180] {
            silence.wrote_keep_alive(at(second));
            silence.read_keep_alive(at(second + 1));
        }
        assert_eq!(silence.pause, None);
    }
}
