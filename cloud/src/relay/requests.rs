//! HTTP requests that wait for their answer: on the control channel of the listener that was told, by the request's id, or
//! at the request's rendezvous, by the secret of its address. Whichever comes first uses both up.
//!
//! Owns who waits, and which body belongs to which response. Leaves to others: sockets, deadlines.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smol::channel::{Receiver, Sender, bounded};
use umbilical_link::upgrade::Upgraded;
use umbilical_relay_protocol::Response;

use super::tracking;

/// Addresses that are remembered after their request has gone.
const MAX_FORGOTTEN: usize = 1024;

/// Every request that waits.
#[derive(Default)]
pub(crate) struct Requests {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    by_id: HashMap<Arc<str>, Waiting>,
    /// Secret to id.
    rendezvous: HashMap<Arc<str>, Arc<str>>,
    /// Secrets of requests that ended before anybody came to their rendezvous, the oldest first.
    forgotten: VecDeque<Arc<str>>,
}

/// A request that waits, as its listener finds it. Dropped without an answer, it tells the sender that there will be none.
pub(crate) struct Waiting {
    /// Serial of the listener that was told; nobody else's word counts.
    listener: Option<u64>,
    secret: Arc<str>,
    answer: Sender<Answer>,
}

/// What a listener said.
pub(crate) enum Answer {
    /// A response and its body, over the control channel.
    Told(Response, Vec<u8>),
    /// It is at the rendezvous: its socket, already answered.
    Met(Upgraded),
}

/// The sender's end. Dropping it makes id and address void.
pub(crate) struct Question {
    requests: Arc<Requests>,
    /// The sender's GUID and a suffix that makes it this request's alone.
    pub(crate) id: Arc<str>,
    /// 128 random bits in hexadecimal digits: who knows them is the listener.
    pub(crate) secret: Arc<str>,
    answers: Receiver<Answer>,
}

impl Requests {
    /// Makes a new id and address.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub(crate) fn open(self: &Arc<Self>, guid: &str) -> Result<Question, getrandom::Error> {
        let secret: Arc<str> = tracking::random_hex()?.into();
        let (answer, answers) = bounded(1);
        let mut state = self.lock();
        state.next += 1;
        let id: Arc<str> = format!("{guid}_G{}", state.next).into();
        state.rendezvous.insert(Arc::clone(&secret), Arc::clone(&id));
        state.by_id.insert(Arc::clone(&id), Waiting { listener: None, secret: Arc::clone(&secret), answer });
        Ok(Question { requests: Arc::clone(self), id, secret, answers })
    }

    /// Uses an address up.
    pub(crate) fn meet(&self, secret: &str) -> Meeting {
        let mut state = self.lock();
        let waiting = state.rendezvous.remove(secret).and_then(|id| state.by_id.remove(&id));
        if let Some(waiting) = waiting {
            return Meeting::Waiting(waiting);
        }
        match state.forgotten.iter().position(|forgotten| **forgotten == *secret) {
            Some(at) => {
                state.forgotten.remove(at);
                Meeting::TooLate
            }
            None => Meeting::Unknown,
        }
    }

    /// The request of this id that this listener was told of.
    fn answered(&self, listener: u64, id: &str) -> Option<Waiting> {
        let mut state = self.lock();
        state.by_id.get(id).filter(|waiting| waiting.listener == Some(listener))?;
        let waiting = state.by_id.remove(id)?;
        state.rendezvous.remove(&waiting.secret);
        Some(waiting)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is at an address.
pub(crate) enum Meeting {
    /// A request.
    Waiting(Waiting),
    /// There was one.
    TooLate,
    /// Nobody, as far as is known.
    Unknown,
}

impl Waiting {
    /// Lets the sender know. If it has left meanwhile, a socket is closed.
    pub(crate) fn answer(&self, answer: Answer) {
        let _ = self.answer.try_send(answer);
    }
}

impl Question {
    /// From now on it is this listener that may answer.
    pub(crate) fn put_to(&self, listener: u64) {
        if let Some(waiting) = self.requests.lock().by_id.get_mut(&self.id) {
            waiting.listener = Some(listener);
        }
    }

    /// Waits for the listener. `None` if it came and left before it had said everything.
    pub(crate) async fn answer(&self) -> Option<Answer> {
        self.answers.recv().await.ok()
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let mut state = self.requests.lock();
        state.by_id.remove(&self.id);
        if state.rendezvous.remove(&self.secret).is_some() {
            if state.forgotten.len() == MAX_FORGOTTEN {
                state.forgotten.pop_front();
            }
            state.forgotten.push_back(Arc::clone(&self.secret));
        }
    }
}

/// What one control channel says in answer: responses, each followed by its body if it announces one.
pub(crate) struct Answers {
    requests: Arc<Requests>,
    listener: u64,
    /// The response whose body comes next; without `Waiting` nobody waits for it any more.
    announced: Option<(Option<Waiting>, Response)>,
}

impl Answers {
    pub(crate) fn new(requests: &Arc<Requests>, listener: u64) -> Self {
        Self { requests: Arc::clone(requests), listener, announced: None }
    }

    /// Takes a response. Returns whether anybody waits for it.
    ///
    /// # Errors
    /// The body of the one before has not come.
    pub(crate) fn response(&mut self, response: Response) -> Result<bool, BodyMissing> {
        if self.announced.is_some() {
            return Err(BodyMissing);
        }
        let waiting = self.requests.answered(self.listener, &response.request_id);
        let awaited = waiting.is_some();
        if response.body {
            self.announced = Some((waiting, response));
        } else if let Some(waiting) = waiting {
            waiting.answer(Answer::Told(response, Vec::new()));
        }
        Ok(awaited)
    }

    /// Takes a binary message: the announced body, or else nothing. Microsoft's Node listeners send an empty one behind
    /// responses that have no body.
    pub(crate) fn body(&mut self, body: Vec<u8>) {
        if let Some((Some(waiting), response)) = self.announced.take() {
            waiting.answer(Answer::Told(response, body));
        }
    }
}

/// A response came where the body of another one was announced.
#[derive(Debug)]
pub(crate) struct BodyMissing;

impl std::fmt::Display for BodyMissing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a response came where the body of another one was announced")
    }
}

#[cfg(test)]
mod tests {
    use smol::block_on;
    use umbilical_relay_protocol::Headers;

    use super::*;

    fn response(id: &str, body: bool) -> Response {
        Response { request_id: id.into(), status: 200, reason: None, headers: Headers::default(), body }
    }

    fn told(question: &Question) -> Option<Vec<u8>> {
        match block_on(question.answer())? {
            Answer::Told(_, body) => Some(body),
            Answer::Met(_) => None,
        }
    }

    #[test]
    fn answers_come_in_any_order_each_with_its_body() {
        let requests = Arc::new(Requests::default());
        let (one, two) = (requests.open("guid").unwrap(), requests.open("guid").unwrap());
        assert_ne!(one.id, two.id);
        one.put_to(7);
        two.put_to(7);
        let mut answers = Answers::new(&requests, 7);
        assert!(answers.response(response(&two.id, true)).unwrap());
        answers.body(b"two".to_vec());
        assert!(answers.response(response(&one.id, false)).unwrap());
        answers.body(Vec::new());
        assert_eq!((told(&one), told(&two)), (Some(Vec::new()), Some(b"two".to_vec())));
        assert!(!answers.response(response(&one.id, false)).unwrap());
    }

    #[test]
    fn another_listener_s_word_does_not_count() {
        let requests = Arc::new(Requests::default());
        let question = requests.open("guid").unwrap();
        assert!(!Answers::new(&requests, 7).response(response(&question.id, false)).unwrap());
        question.put_to(7);
        assert!(!Answers::new(&requests, 8).response(response(&question.id, false)).unwrap());
        assert!(Answers::new(&requests, 7).response(response(&question.id, false)).unwrap());
    }

    #[test]
    fn the_body_of_a_response_that_nobody_waits_for_is_not_taken_for_another_s() {
        let requests = Arc::new(Requests::default());
        let question = requests.open("guid").unwrap();
        question.put_to(7);
        let mut answers = Answers::new(&requests, 7);
        assert!(!answers.response(response("late", true)).unwrap());
        assert!(answers.response(response(&question.id, true)).is_err());
        answers.body(b"late".to_vec());
        answers.body(b"stray".to_vec());
        assert!(answers.response(response(&question.id, true)).unwrap());
        answers.body(b"in time".to_vec());
        assert_eq!(told(&question), Some(b"in time".to_vec()));
    }

    #[test]
    fn an_address_and_an_id_are_good_once_and_die_with_their_sender() {
        let requests = Arc::new(Requests::default());
        let question = requests.open("guid").unwrap();
        question.put_to(7);
        let Meeting::Waiting(waiting) = requests.meet(&question.secret) else { panic!("nobody waits") };
        drop(waiting);
        assert!(block_on(question.answer()).is_none());
        assert!(matches!(requests.meet(&question.secret), Meeting::Unknown));
        assert!(!Answers::new(&requests, 7).response(response(&question.id, false)).unwrap());
        let (id, secret) = (Arc::clone(&question.id), Arc::clone(&question.secret));
        drop(question);
        let question = requests.open("guid").unwrap();
        assert!(question.id != id && matches!(requests.meet(&secret), Meeting::Unknown));
        drop(question);
        let state = requests.lock();
        assert!(state.by_id.is_empty() && state.rendezvous.is_empty());
    }

    #[test]
    fn who_comes_too_late_is_told_so_once_and_only_so_many_are_remembered() {
        let requests = Arc::new(Requests::default());
        let secrets: Vec<_> = (0..=MAX_FORGOTTEN).map(|_| Arc::clone(&requests.open("guid").unwrap().secret)).collect();
        assert!(matches!(requests.meet(&secrets[0]), Meeting::Unknown));
        assert!(matches!(requests.meet(&secrets[1]), Meeting::TooLate));
        assert!(matches!(requests.meet(&secrets[1]), Meeting::Unknown));
        assert_eq!(requests.lock().forgotten.len(), MAX_FORGOTTEN - 1);
    }
}
