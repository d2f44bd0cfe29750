//! A rendezvous: the sender waits, a listener is invited to an address that is good once, comes or refuses, and the two are
//! joined frame by frame. Pings and pongs are for the service and go no further.

use std::{io, sync::Arc};

use serde_json::{Map, json};
use smol::{
    Timer,
    channel::{Sender, bounded},
    future::{self, try_zip},
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
};
use umbilical_link::{
    frame::{FrameHeader, MAX_HEADER_BYTES, Opcode},
    pieces::{Kind as MessageKind, Piece, Pieces},
    upgrade::Role,
};
use umbilical_relay_protocol::{AUTHORIZATION_HEADER, Right};

use super::{
    GATEWAY_HOST, Kind, Shared,
    channel::Listener,
    front::{Asking, Refusal},
    line::{Forgotten, Observed},
};

const BUFFER_BYTES: usize = 64 * 1024;

/// A sender whose listener is to come.
pub(super) struct Waiting {
    path: String,
    answers: Sender<Answer>,
}

enum Answer {
    Came { listener: Observed, forgotten: Forgotten, subprotocol: Option<String> },
    Refused(Refusal),
}

/// Keeps a sender waiting for a listener, and joins the two.
pub(super) async fn connect(shared: Arc<Shared>, asking: Asking) -> io::Result<()> {
    if let Err(refusal) = asking.authorize(&shared, Right::Send) {
        return asking.refuse(&shared, refusal).await;
    }
    let (path, id) = (asking.target.path().to_owned(), format!("{}_G63_G0", shared.guid()));
    let (answers_in, answers) = bounded(1);
    let invited = {
        let address = format!("wss://{GATEWAY_HOST}:443/$hc/{path}?sb-hc-action=accept&sb-hc-id={id}");
        let mut state = shared.state();
        state.waiting.insert(id.clone(), Waiting { path: path.clone(), answers: answers_in });
        state.seen.address = Some(address.clone());
        let there: Vec<&Listener> = state.listeners.iter().filter(|listener| listener.listens_at(&path)).collect();
        let chosen = fastrand::choice(there);
        if let Some(listener) = chosen {
            listener.invite(invitation(&asking, &address, &id));
        }
        chosen.is_some()
    };
    if !invited {
        let words = "There are no listeners connected for the endpoint".to_owned();
        return asking.refuse(&shared, (404, words)).await;
    }
    let late = async {
        Timer::after(shared.terms.rendezvous).await;
        None
    };
    let answer = future::or(async { answers.recv().await.ok() }, late).await;
    shared.state().waiting.remove(&id);
    match answer {
        None => {
            let words = "GatewayTimeout: The listener did not respond within the required time".to_owned();
            asking.refuse(&shared, (504, words)).await
        }
        Some(Answer::Refused(refusal)) => asking.refuse_in_words(&shared, refusal).await,
        Some(Answer::Came { listener, forgotten, subprotocol }) => {
            let sender = asking.upgrade(&shared, subprotocol.as_deref()).await?;
            let sender = Observed::new(&shared, Kind::Sender, sender)?;
            join(&shared, sender, (listener, forgotten)).await;
            Ok(())
        }
    }
}

/// The service's message, with every field that some client needs.
fn invitation(asking: &Asking, address: &str, id: &str) -> String {
    let headers = asking.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(AUTHORIZATION_HEADER));
    let headers: Map<_, _> = headers.map(|(name, value)| (name.to_owned(), value.into())).collect();
    let accept = json!({
        "accept": {
            "address": address,
            "id": id,
            "connectHeaders": headers,
            "remoteEndpoint": { "address": "203.0.113.7", "port": 50_000 },
        }
    });
    accept.to_string()
}

/// A listener that comes to a rendezvous, or refuses.
pub(super) async fn accept(shared: Arc<Shared>, asking: Asking) -> io::Result<()> {
    let waiting = shared.state().waiting.remove(asking.target.id().unwrap_or_default());
    let Some(Waiting { answers, .. }) = waiting.filter(|waiting| waiting.path == asking.target.path()) else {
        let words = "InvalidRendezvous: The rendezvous address is not valid or was used before".to_owned();
        return asking.refuse(&shared, (403, words)).await;
    };
    if let Some(refusal) = asking.target.refusal() {
        let _ = answers.try_send(Answer::Refused((refusal.status, refusal.description.clone())));
        return asking.refuse(&shared, (410, "Gone".to_owned())).await;
    }
    let subprotocol = asking.headers.get("Sec-WebSocket-Protocol").map(str::to_owned);
    let transport = asking.upgrade(&shared, subprotocol.as_deref()).await?;
    let (listener, forgotten) = Observed::new(&shared, Kind::Listener, transport)?;
    shared.note(|seen| seen.joins += 1);
    let _ = answers.try_send(Answer::Came { listener, forgotten, subprotocol });
    Ok(())
}

/// Passes frames until both have closed, one breaks off or sends a Ping, or one is forgotten. Then the other is not told
/// either: nothing tells the service.
async fn join(shared: &Shared, sender: (Observed, Forgotten), listener: (Observed, Forgotten)) {
    let ((sender, sender_forgotten), (listener, listener_forgotten)) = (sender, listener);
    let lines = [sender.line(), listener.line()];
    let (mut from_sender, mut to_sender) = smol::io::split(sender);
    let (mut from_listener, mut to_listener) = smol::io::split(listener);
    let passing = async {
        let there = pass(shared, &mut from_sender, &mut to_listener);
        let back = pass(shared, &mut from_listener, &mut to_sender);
        Some(try_zip(there, back).await.is_ok())
    };
    let forgotten = async {
        let _ = future::or(sender_forgotten.recv(), listener_forgotten.recv()).await;
        None
    };
    match future::or(forgotten, passing).await {
        None => shared.state().forgotten.push(Box::new((from_sender, to_sender, from_listener, to_listener))),
        Some(true) => _ = future::zip(to_sender.close(), to_listener.close()).await,
        Some(false) => lines.iter().for_each(|line| line.abort()),
    }
}

/// One direction, up to its close frame.
async fn pass(
    shared: &Shared,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let (mut pieces, mut buffer, mut end) = (Pieces::new(Role::Server), vec![0; BUFFER_BYTES], 0);
    let mut within = false;
    loop {
        let mut start = 0;
        loop {
            let (taken, piece) = pieces.next(&mut buffer[start..end]).map_err(io::Error::other)?;
            let payload = match &piece {
                Some(Piece::Data(_, range, _) | Piece::Close(range)) => &buffer[start + range.start..start + range.end],
                _ => &[],
            };
            match piece {
                None => {
                    start += taken;
                    break;
                }
                Some(Piece::Data(kind, _, last)) => {
                    let opcode = match (within, kind) {
                        (true, _) => Opcode::Continuation,
                        (false, MessageKind::Text) => Opcode::Text,
                        (false, MessageKind::Binary) => Opcode::Binary,
                    };
                    send(to, opcode, last, payload).await?;
                    within = !last;
                }
                Some(Piece::Ping(_)) => {
                    shared.note(|seen| seen.pings += 1);
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                Some(Piece::Pong) => shared.note(|seen| seen.join_pongs += 1),
                Some(Piece::Close(_)) => return send(to, Opcode::Close, true, payload).await,
            }
            start += taken;
        }
        buffer.copy_within(start..end, 0);
        end -= start;
        match from.read(&mut buffer[end..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => end += count,
        }
    }
}

async fn send(to: &mut (impl AsyncWrite + Unpin), opcode: Opcode, fin: bool, payload: &[u8]) -> io::Result<()> {
    let mut header = [0; MAX_HEADER_BYTES];
    let length = FrameHeader { fin, opcode, mask: None, length: payload.len() as u64 }.encode(&mut header);
    to.write_all(&[&header[..length], payload].concat()).await?;
    to.flush().await
}
