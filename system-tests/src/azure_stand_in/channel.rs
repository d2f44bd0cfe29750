//! A listener's control channel: invitations go out, tokens come in. It ends when the listener leaves, sends a Ping, or lets
//! its token expire; when the service cuts it; and unseen, when it has been silent for too long.

use std::{io, sync::Arc, time::Duration};

use async_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role},
    },
};
use smol::{
    Timer,
    channel::{Receiver, Sender, bounded, unbounded},
    future,
    stream::StreamExt,
};
use umbilical_relay_protocol::{ListenerMessage, Right};

use super::{
    Kind, Shared,
    front::{Asking, judge},
    line::{Forgotten, Observed},
    now_unix,
};

/// The service's words at a token's end, and once a day.
const TOKEN_OVER: (u16, &str) =
    (1008, "The security token has expired, therefore the authorization policy is violated.");
const DAILY_CUT: (u16, &str) = (1011, "NameRenewalFailed");

/// How long a listener may take to close.
const CLOSE: Duration = Duration::from_secs(5);

/// A listener that may be invited.
pub(super) struct Listener {
    id: String,
    path: String,
    invitations: Sender<String>,
    cut: Sender<()>,
}

impl Listener {
    pub(super) fn cut(&self) {
        let _ = self.cut.try_send(());
    }

    pub(super) fn listens_at(&self, path: &str) -> bool {
        self.path == path
    }

    pub(super) fn invite(&self, invitation: String) {
        let _ = self.invitations.try_send(invitation);
    }
}

/// What happens on a channel.
enum News {
    Heard(Option<Message>),
    Invitation(String),
    Expired,
    Cut,
    Forgotten,
}

/// How a channel ends.
enum End {
    Left,
    Pinged,
    Closed(u16, String),
    Forgotten,
}

/// Lets a listener in, or not.
pub(super) async fn listen(shared: Arc<Shared>, asking: Asking) -> io::Result<()> {
    let grant = match asking.authorize(&shared, Right::Listen) {
        Ok(grant) => grant,
        Err(refusal) => return asking.refuse(&shared, refusal).await,
    };
    let (path, id) = (asking.target.path().to_owned(), shared.guid());
    let (observed, forgotten) = Observed::new(&shared, Kind::Channel, asking.upgrade(&shared, None).await?)?;
    let mut socket = WebSocketStream::from_raw_socket(observed, Role::Server, None).await;
    let (invitations_in, invitations) = unbounded();
    let (cut, cuts) = bounded(1);
    {
        let mut state = shared.state();
        state.seen.channels += 1;
        state.listeners.push(Listener { id: id.clone(), path: path.clone(), invitations: invitations_in, cut });
    }
    let mut channel = Channel { path, expires: grant.expires, invitations, cuts, forgotten };
    let end = channel.serve(&shared, &mut socket).await;
    if matches!(end, End::Forgotten) {
        Timer::after(shared.terms.ghost).await;
    }
    shared.state().listeners.retain(|listener| listener.id != id);
    match end {
        End::Left => {}
        End::Pinged => socket.into_inner().line().abort(),
        End::Closed(code, reason) => {
            let farewell = async {
                let _ = socket.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).await;
                while let Some(Ok(_)) = socket.next().await {}
            };
            future::or(farewell, async { _ = Timer::after(CLOSE).await }).await;
        }
        End::Forgotten => shared.state().forgotten.push(Box::new(socket.into_inner())),
    }
    Ok(())
}

struct Channel {
    path: String,
    /// Unix seconds.
    expires: u64,
    invitations: Receiver<String>,
    cuts: Receiver<()>,
    forgotten: Forgotten,
}

impl Channel {
    async fn serve(&mut self, shared: &Shared, socket: &mut WebSocketStream<Observed>) -> End {
        loop {
            match self.news(socket).await {
                News::Forgotten => return End::Forgotten,
                News::Cut => return End::Closed(DAILY_CUT.0, DAILY_CUT.1.to_owned()),
                News::Expired => return End::Closed(TOKEN_OVER.0, TOKEN_OVER.1.to_owned()),
                News::Invitation(text) => {
                    if socket.send(Message::text(text)).await.is_err() {
                        return End::Left;
                    }
                }
                News::Heard(None | Some(Message::Close(_))) => return End::Left,
                News::Heard(Some(Message::Ping(_))) => {
                    shared.note(|seen| seen.pings += 1);
                    return End::Pinged;
                }
                News::Heard(Some(Message::Pong(_))) => shared.note(|seen| seen.channel_pongs += 1),
                News::Heard(Some(Message::Text(text))) => {
                    if let Ok(ListenerMessage::RenewToken { token }) = ListenerMessage::parse(&text) {
                        match judge(shared, &token, Right::Listen, &self.path) {
                            Ok(grant) => self.expires = grant.expires,
                            Err((_, words)) => return End::Closed(TOKEN_OVER.0, words),
                        }
                        shared.note(|seen| seen.renewals += 1);
                    }
                }
                News::Heard(Some(_)) => {}
            }
        }
    }

    async fn news(&self, socket: &mut WebSocketStream<Observed>) -> News {
        let heard = async { News::Heard(socket.next().await.and_then(Result::ok)) };
        let invited = async { self.invitations.recv().await.map_or(News::Cut, News::Invitation) };
        let cut = async {
            let _ = self.cuts.recv().await;
            News::Cut
        };
        let forgotten = async {
            let _ = self.forgotten.recv().await;
            News::Forgotten
        };
        let expired = async {
            Timer::after(Duration::from_secs(self.expires.saturating_sub(now_unix()))).await;
            News::Expired
        };
        future::or(forgotten, future::or(future::or(cut, expired), future::or(invited, heard))).await
    }
}
