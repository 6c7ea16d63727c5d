//! From a location to a link: state folder, pin, address, session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::id::InstanceId;
use lacuna_transport::limits::SESSION_WINDOW_BYTES;
use lacuna_transport::quic::busy_poll::BusyPoll;
use lacuna_transport::quic::endpoint;
use lacuna_transport::quic::identity::KeyId;
use tokio::sync::mpsc;

use crate::compress::Compress;
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{Claim, Dead};
use crate::location::Location;
use crate::memory::Division;
use crate::remote::address::refusal;
use crate::remote::link::{Event, Link};
use crate::remote::session::Target;
use crate::state::StateDir;

/// Connects to the server of a location; it is told how long this client waits for an answer.
pub async fn connect(
    state: &StateDir,
    location: &Location,
    compress: Compress,
    memory: &Division,
    patience: Option<Duration>,
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
        let receive = memory.receive_window_bytes.min(SESSION_WINDOW_BYTES);
        let send = memory.send_window_bytes;
        let (client, shown) = endpoint::client_config_within(&identity, pin, receive, send);
        let target = Target {
            instance,
            patience,
            name: name.clone(),
            address,
            pin,
            own_key: identity.id(),
            compress,
            client,
            receive_window_bytes_max: memory.receive_window_bytes,
            shown,
            is_known: true,
            busy_poll: BusyPoll::default(),
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
