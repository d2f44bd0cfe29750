//! A TCP forwarder from `--listen` to `--to` whose connections can be cut: a line `cut` on standard input resets all of
//! them (RST, both ways) and is answered by `{"cut": N}`. It goes on taking new ones.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smol::{Async, Task};
use socket2::SockRef;

use crate::arguments::Arguments;

type Open = Arc<Mutex<Vec<Task<()>>>>;

pub(crate) fn run(arguments: &Arguments) -> io::Result<()> {
    let to = arguments.to()?;
    let listener = Async::<std::net::TcpListener>::bind(arguments.listen)?;
    let port = listener.get_ref().local_addr()?.port();
    let open = Open::default();
    let accepted = Arc::clone(&open);
    smol::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let task = smol::spawn(async move {
                // Either end may close at any time; the tunnel under test notices by itself.
                let _ = join(near, to).await;
            });
            accepted.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        }
    })
    .detach();
    crate::say(&port.to_string())?;
    for line in io::stdin().lines() {
        if line? == "cut" {
            // Dropping a task drops its sockets, and those reset instead of closing.
            let cut = open
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .drain(..)
                .filter(|task| !task.is_finished())
                .count();
            crate::say(&format!(r#"{{"cut": {cut}}}"#))?;
        }
    }
    Ok(())
}

async fn join(near: Async<TcpStream>, to: SocketAddr) -> io::Result<()> {
    let far = Async::<TcpStream>::connect(to).await?;
    for socket in [near.get_ref(), far.get_ref()] {
        socket.set_nodelay(true)?;
        SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
    }
    smol::future::or(smol::io::copy(&near, &far), smol::io::copy(&far, &near)).await.map(|_| ())
}
