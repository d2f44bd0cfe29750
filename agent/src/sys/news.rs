//! Anything that makes another attempt worthwhile at once: the network, the resolver, or the clock is not as it was.

use std::io;

use log::debug;
use smol::future;

use super::{clock::ClockNews, network::NetworkNews, resolver::ResolverNews};

/// Hears of all of it, from its making on.
#[derive(Debug)]
pub struct News {
    network: io::Result<NetworkNews>,
    resolver: io::Result<ResolverNews>,
    clock: io::Result<ClockNews>,
}

impl News {
    /// Starts to listen. What can't be heard, as a sandbox may forbid it, is not waited for.
    #[must_use]
    pub fn listen() -> News {
        News { network: NetworkNews::new(), resolver: ResolverNews::new(), clock: ClockNews::new() }
    }

    /// Waits for the first of them, and says what it was.
    pub async fn any(self) -> &'static str {
        let network = heard("the network", self.network, async |network| network.better().await);
        let resolver = heard("the resolver's configuration", self.resolver, async |resolver| resolver.changed().await);
        let clock = heard("the clock", self.clock, async |mut clock| clock.jumped().await.map(drop));
        future::or(network, future::or(resolver, clock)).await
    }
}

async fn heard<T>(
    what: &'static str,
    source: io::Result<T>,
    news: impl AsyncFnOnce(T) -> io::Result<()>,
) -> &'static str {
    let heard = match source {
        Ok(source) => news(source).await,
        Err(error) => Err(error),
    };
    match heard {
        Ok(()) => what,
        Err(error) => {
            debug!("no news of {what}: {error}");
            future::pending().await
        }
    }
}
