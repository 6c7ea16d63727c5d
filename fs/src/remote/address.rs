//! Where a server is. Its name is looked up again when it cannot be reached: it may have moved.
//!
//! A look-up is made beside the attempts to connect, one at a time: a name server that does not answer holds
//! nothing up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UdpSocket;

use crate::error::{Error, ErrorKind};

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;
/// How long a closed port may take to say so.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The addresses of a server. Clones share them.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// HOST:PORT.
    name: String,
    found: Arc<Mutex<Found>>,
}

#[derive(Debug)]
struct Found {
    /// The one that worked last.
    good: SocketAddr,
    all: Vec<SocketAddr>,
    tries: usize,
    looking: bool,
}

impl Found {
    /// Every other time the one that worked last, in between the others in turn.
    fn next(&mut self) -> SocketAddr {
        let (turn, other) = (self.tries / 2, self.tries % 2 == 1);
        self.tries += 1;
        let others = self.all.len().max(1);
        let found = self.all.get(turn % others).filter(|_| other);
        found.copied().unwrap_or(self.good)
    }
}

impl Addresses {
    /// Of a server that was reached at `good`.
    pub fn new(name: &str, good: SocketAddr) -> Self {
        let found = Found {
            good,
            all: Vec::new(),
            tries: 0,
            looking: false,
        };
        Self {
            name: name.to_owned(),
            found: Arc::new(Mutex::new(found)),
        }
    }

    /// The next one to try.
    pub fn next(&self) -> SocketAddr {
        self.found.lock().next()
    }

    /// The server was reached there.
    pub fn worked(&self, address: SocketAddr) {
        let mut found = self.found.lock();
        found.good = address;
        found.tries = 0;
    }

    /// Looks the name up in the background.
    pub fn look_up(&self) {
        if std::mem::replace(&mut self.found.lock().looking, true) {
            return;
        }
        let addresses = self.clone();
        tokio::spawn(async move {
            let looked_up = tokio::net::lookup_host(addresses.name.as_str()).await;
            let mut found = addresses.found.lock();
            found.looking = false;
            match looked_up {
                Ok(all) => found.all = all.take(ADDRESSES_MAX).collect(),
                Err(error) => tracing::debug!(server = addresses.name, %error, "cannot look up the name"),
            }
        });
    }
}

/// Resolves only if the port is closed. QUIC itself does not listen to ICMP and would wait for its
/// handshake to time out.
pub async fn refusal(name: &str, address: SocketAddr) -> Error {
    let probe = async {
        let local = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(local).await?;
        socket.connect(address).await?;
        // Too short to be QUIC: a live server drops it.
        socket.send(&[0]).await?;
        socket.recv(&mut [0; 16]).await
    };
    match tokio::time::timeout(REFUSAL_TIMEOUT, probe).await {
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            let text = format!(
                "{name} ({address}): nothing listens on this UDP port: start lacunad there, or check the port"
            );
            Error::new(ErrorKind::Disconnected, text)
        }
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_good_address_is_tried_every_other_time() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let addresses = Addresses::new("host:1", at(1));
        assert_eq!([(); 2].map(|()| addresses.next()), [at(1); 2]);
        addresses.worked(at(1));
        addresses.found.lock().all = vec![at(2), at(3)];
        let tried = [(); 6].map(|()| addresses.next());
        assert_eq!(tried, [at(1), at(2), at(1), at(3), at(1), at(2)]);
        addresses.worked(at(3));
        assert_eq!(addresses.next(), at(3));
    }

    #[tokio::test]
    async fn a_name_is_looked_up_beside_the_attempts() {
        let addresses = Addresses::new("localhost:7117", SocketAddr::from(([192, 0, 2, 1], 7117)));
        addresses.look_up();
        assert!(addresses.found.lock().looking, "it was waited for");
        while addresses.found.lock().looking {
            tokio::task::yield_now().await;
        }
        addresses.next();
        assert!(addresses.next().ip().is_loopback(), "{addresses:?}");
    }
}
