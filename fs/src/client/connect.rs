//! From a location to a link: state folder, pin, address, session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::id::InstanceId;
use lacuna_transport::quic::endpoint;
use lacuna_transport::quic::identity::KeyId;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::compress::Compress;
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{Claim, Dead};
use crate::location::Location;
use crate::remote::link::{Event, Link};
use crate::remote::session::Target;
use crate::state::StateDir;

/// How long a closed port may take to say so.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Connects to the server of a location.
pub async fn connect(
    state: &StateDir,
    location: &Location,
    compress: Compress,
) -> Result<(Arc<Link>, mpsc::Receiver<Event>)> {
    let name = location.server();
    let pin = state.trusted(&name)?;
    let identity = state.identity()?;
    let found = tokio::net::lookup_host((location.host.as_str(), location.port)).await;
    let addresses: Vec<SocketAddr> = found.map(Iterator::collect).unwrap_or_default();
    let instance = InstanceId::random()
        .map_err(|error| Error::new(ErrorKind::Io, format!("cannot read random numbers: {error}")))?;
    let unknown = format!("cannot find the host '{}': check the name", location.host);
    let mut failure = Error::new(ErrorKind::Disconnected, unknown);
    for address in addresses {
        let (client, shown) = endpoint::client_config(&identity, pin);
        let target = Target {
            instance,
            name: name.clone(),
            address,
            pin,
            own_key: identity.id(),
            compress,
            client,
            shown,
        };
        let endpoint = endpoint::client(address)
            .map_err(|error| Error::new(ErrorKind::Io, format!("cannot open a UDP socket: {error}")))?;
        let result = tokio::select! {
            result = Link::open(endpoint, target) => result,
            error = refusal(&name, address) => Err(error),
        };
        match result {
            Ok((link, events)) => {
                live(state, &link, pin).await;
                return Ok((link, events));
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Looks after processes that died, and has others look after this one.
async fn live(state: &StateDir, link: &Link, server: KeyId) {
    let folder = state.instances();
    let heard = link.say_goodbye_for(Dead::find(&folder, server)).await;
    for dead in heard {
        if let Err(error) = dead.forget() {
            tracing::debug!(%error, "cannot remove the file of a process that died");
        }
    }
    match Claim::new(&folder, server, link.target().instance) {
        Ok(claim) => link.hold(claim),
        // If this process is killed, others may have to wait before they can write.
        Err(error) => {
            tracing::debug!(folder = %folder.display(), %error, "cannot say that this process lives")
        }
    }
}

/// Resolves only if the port is closed. QUIC itself does not listen to ICMP and would wait for its
/// handshake to time out.
async fn refusal(name: &str, address: SocketAddr) -> Error {
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
