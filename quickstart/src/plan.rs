//! The addresses of this run: the ones people expect where they are free, any others where not.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use smol::{
    Timer, future,
    net::{TcpListener, TcpStream},
};

use crate::error::Error;

/// The name of the device.
pub(crate) const DEVICE: &str = "demo";

/// Where everything is.
pub(crate) struct Plan {
    /// The folder of all files, absolute: the configuration can be used from anywhere.
    pub(crate) folder: PathBuf,
    /// The embedded relay.
    pub(crate) relay: SocketAddr,
    /// The cloud's figures.
    pub(crate) admin: SocketAddr,
    /// The page as the device has it.
    pub(crate) page: SocketAddr,
    /// The page as the world sees it.
    pub(crate) page_exposure: SocketAddr,
    /// The device's SSH server and its exposure, if there is one.
    pub(crate) ssh: Option<Ssh>,
}

/// An SSH server that was found.
pub(crate) struct Ssh {
    pub(crate) target: SocketAddr,
    pub(crate) exposure: SocketAddr,
}

impl Plan {
    /// Chooses addresses.
    pub(crate) async fn make(folder: PathBuf, page: SocketAddr) -> Result<Plan, Error> {
        // Held until all are chosen, so that no two are the same.
        let (_relay, relay) = free(0).await?;
        let (_admin, admin) = free(0).await?;
        let (_page, page_exposure) = free(8080).await?;
        let (_ssh, exposure) = free(2222).await?;
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, 22));
        let ssh = is_listening(target).await.then_some(Ssh { target, exposure });
        Ok(Plan { folder, relay, admin, page, page_exposure, ssh })
    }

    /// A file of this run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// The wanted loopback port, or one that the system chooses if that is taken.
async fn free(port: u16) -> Result<(TcpListener, SocketAddr), Error> {
    let bound = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await,
    };
    let listener = bound.map_err(Error::Port)?;
    let address = listener.local_addr().map_err(Error::Port)?;
    Ok((listener, address))
}

async fn is_listening(address: SocketAddr) -> bool {
    let connect = async { TcpStream::connect(address).await.is_ok() };
    let give_up = async {
        Timer::after(Duration::from_millis(500)).await;
        false
    };
    future::or(connect, give_up).await
}
