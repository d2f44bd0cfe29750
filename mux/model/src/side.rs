//! One end of a session: the part of `mux/src/session.rs` that links are about.

use crate::Bug;
use crate::link::Message;

/// The index of the side that dials.
pub const GATEWAY: usize = 0;
/// The index of the side that answers.
pub const AGENT: usize = 1;

/// One side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Side {
    /// The link in use.
    pub link: Option<u8>,
    /// Number of that link or the last one.
    pub number: u8,
    /// The link with which the state began; 0 for none.
    pub began: u8,
    /// Records of this state that the peer acknowledged.
    pub acked: u8,
    /// Records of this state received.
    pub received: u8,
    /// Labels of the records after those: the replay ring. Of them, sent on this link.
    pub kept: Vec<u8>,
    /// See [`kept`](Self::kept).
    pub sent: u8,
    /// Labels used up.
    pub said: u8,
    /// The label before the first record of this state.
    pub said_before: u8,
    /// Records came that were not acknowledged; their sender asked for it.
    pub owes: bool,
    /// See [`owes`](Self::owes).
    pub asked: bool,
    /// All labels ever delivered here.
    pub delivered: Vec<u8>,
}

/// What a side makes of a `Hello`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Resumed,
    /// Anew; whether a state was dropped for it.
    Fresh {
        dropped: bool,
    },
    Refused,
}

/// The peer acknowledges what was never sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Impossible;

impl Side {
    /// What it says first on link `number`.
    pub(crate) fn hello(&self, side: usize, number: u8) -> Message {
        let resumes = if side == AGENT && self.began == number { 0 } else { self.began };
        Message::Hello { received: self.received, resumes }
    }

    pub(crate) fn handle_hello(&mut self, side: usize, link: u8, hello: (u8, u8), bug: Option<Bug>) -> Verdict {
        let (received, resumes) = hello;
        if link <= self.number {
            return Verdict::Refused;
        }
        let same = resumes == self.began || bug == Some(Bug::ComparesFlags) && resumes != 0;
        let anew = bug == Some(Bug::BeginsAnew) && side == AGENT && self.link.is_some();
        let continues = self.began != 0 && same && !anew;
        if bug == Some(Bug::RefusesResumption) && side == AGENT && continues {
            return Verdict::Refused;
        }
        if resumes != 0 && !continues && side == GATEWAY {
            return Verdict::Refused;
        }
        let kept = u8::try_from(self.kept.len()).unwrap_or(u8::MAX);
        if continues && (received < self.acked || received > self.acked + kept) {
            return Verdict::Refused;
        }
        let dropped = self.began != 0 && !continues;
        if dropped {
            self.forget();
        }
        if continues && bug != Some(Bug::ResendsAll) {
            self.acknowledged(received);
        }
        if bug != Some(Bug::SendsOn) {
            self.sent = 0;
        }
        (self.owes, self.asked) = (false, false);
        (self.link, self.number) = (Some(link), link);
        if continues {
            return Verdict::Resumed;
        }
        self.began = link;
        Verdict::Fresh { dropped }
    }

    /// The state is gone; labels go on.
    pub(crate) fn forget(&mut self) {
        *self = Self {
            link: self.link,
            number: self.number,
            said: self.said,
            said_before: self.said,
            delivered: std::mem::take(&mut self.delivered),
            ..Self::default()
        };
    }

    fn acknowledged(&mut self, records: u8) {
        let new = records.saturating_sub(self.acked);
        self.kept.drain(..usize::from(new));
        self.acked += new;
        self.sent = self.sent.saturating_sub(new);
    }

    /// Takes a message of its link.
    pub(crate) fn handle_message(&mut self, message: &Message, bug: Option<Bug>) -> Result<(), Impossible> {
        let (ack, record) = match *message {
            Message::Hello { .. } => return Err(Impossible),
            Message::Ack(records) => (Some(records), None),
            Message::Record { label, ack, asks } => (ack, Some((label, asks))),
        };
        if let Some(records) = ack {
            if records < self.acked || records > self.acked + self.sent {
                return Err(Impossible);
            }
            self.acknowledged(records);
        }
        if let Some((label, asks)) = record {
            self.received += 1;
            self.owes = true;
            self.asked |= asks;
            self.delivered.push(label);
        } else if bug == Some(Bug::CountsAcks) {
            self.received += 1;
        }
        Ok(())
    }

    /// Whether a record waits that was not sent on this link.
    pub(crate) fn has_unsent(&self) -> bool {
        usize::from(self.sent) < self.kept.len()
    }

    /// The next record, from the ring or a new one.
    pub(crate) fn next_record(&mut self) -> Message {
        if !self.has_unsent() {
            self.said += 1;
            self.kept.push(self.said);
        }
        let label = self.kept[usize::from(self.sent)];
        self.sent += 1;
        let ack = std::mem::take(&mut self.owes).then_some(self.received);
        self.asked = false;
        Message::Record { label, ack, asks: !self.has_unsent() }
    }

    /// The acknowledgement that is owed.
    pub(crate) fn next_ack(&mut self, bug: Option<Bug>) -> Message {
        (self.owes, self.asked) = (false, false);
        Message::Ack(self.received + u8::from(bug == Some(Bug::AcknowledgesMore)))
    }
}
