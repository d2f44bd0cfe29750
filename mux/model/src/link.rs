//! Links: two queues of messages, which may be cut, and whose ends may be closed.

/// The gateway's way to the agent.
pub const THERE: usize = 0;
/// The agent's way to the gateway.
pub const BACK: usize = 1;

/// What goes over a link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// The first one, each way.
    Hello {
        /// Records that its sender has received.
        received: u8,
        /// The link with which the state began that its sender would go on with; 0 for none.
        resumes: u8,
    },
    /// A record, with the acknowledgement that was owed.
    Record {
        /// What it says: the number of the record among all that its sender ever wrote.
        label: u8,
        /// Records received in all.
        ack: Option<u8>,
        /// It asks for an acknowledgement.
        asks: bool,
    },
    /// An acknowledgement alone: records received in all.
    Ack(u8),
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Link {
    /// Counts from 1.
    pub number: u8,
    /// What is under way, [`THERE`] and [`BACK`].
    pub ways: [Vec<Message>; 2],
    /// Whether the gateway, and the agent, has closed its end. What it said before still arrives.
    pub closed: [bool; 2],
    /// Nothing arrives any more.
    pub cut: bool,
    /// The agent has seen its first message.
    pub greeted: bool,
}

impl Link {
    pub(crate) fn new(number: u8) -> Self {
        Self { number, ways: [Vec::new(), Vec::new()], closed: [false; 2], cut: false, greeted: false }
    }

    /// Hands a message in; it is lost if nobody will read it.
    pub(crate) fn push(&mut self, way: usize, message: Message) {
        if !self.cut && !self.closed[1 - way] {
            self.ways[way].push(message);
        }
    }

    /// The end of `side` reads no more.
    pub(crate) fn close(&mut self, side: usize) {
        self.closed[side] = true;
        self.ways[1 - side].clear();
    }

    pub(crate) fn cut(&mut self) {
        self.cut = true;
        self.ways.iter_mut().for_each(Vec::clear);
    }

    /// Whether `side` would find out that there is nothing more to read.
    pub(crate) fn is_over_for(&self, side: usize) -> bool {
        self.cut || self.closed[1 - side] && self.ways[1 - side].is_empty()
    }
}
