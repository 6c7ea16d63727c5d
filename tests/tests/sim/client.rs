//! A client process: the real link, session and file system, without a kernel in front.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use lacuna::compress::Compress;
use lacuna::error::{Error, ErrorKind, Result};
use lacuna::file_system::FileSystem;
use lacuna::file_system::follow::{follow, tend};
use lacuna::remote::link::{Link, LinkState};
use lacuna::remote::quic::QuicRemote;
use lacuna::remote::session::Target;
use lacuna::volume::shared::Settings;
use lacuna_transport::id::InstanceId;
use lacuna_transport::limits::SESSION_WINDOW_BYTES;
use lacuna_transport::path::NodePath;
use lacuna_transport::quic::busy_poll::BusyPoll;
use lacuna_transport::quic::endpoint;
use lacuna_transport::quic::identity::{Identity, KeyId};
use tokio::task::JoinSet;

use crate::network::Network;

/// Small, so that blocks are evicted and fetched again.
const CACHE_BYTES: u64 = 256 << 10;
const DIRTY_BYTES: u64 = 128 << 10;

/// All that a client can have to rescue of one volume: what it may keep before it is flushed.
pub(crate) const RESCUE_BYTES_MAX: u64 = DIRTY_BYTES;

/// Who a client is, over all its processes.
#[derive(Debug)]
pub(crate) struct Person {
    pub(crate) identity: Identity,
    pub(crate) compress: Compress,
    pub(crate) deadline: Duration,
}

/// A server to connect to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) key: KeyId,
}

/// See the module. Dropped, it is gone without a goodbye if its socket was cut before.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) fs: Arc<FileSystem<QuicRemote>>,
    link: Arc<Link>,
    /// What goes on beside the calls ends with it.
    _background: JoinSet<()>,
}

impl Client {
    /// One try; `process` numbers those of all clients.
    pub(crate) async fn connect(
        network: &Arc<Network>,
        address: SocketAddr,
        process: u8,
        person: &Person,
        server: Server,
        rescue: PathBuf,
    ) -> Result<Self> {
        let socket = network.bind(address);
        let endpoint = endpoint::client_over(socket, [process; 32])
            .map_err(|error| Error::new(ErrorKind::Io, error.to_string()))?;
        let (client, shown) = endpoint::client_config(&person.identity, server.key);
        let target = Target {
            name: "server".to_owned(),
            address: server.address,
            pin: server.key,
            own_key: person.identity.id(),
            instance: InstanceId([process; 16]),
            compress: person.compress,
            client,
            shown,
            is_known: false,
            // Simulated time would stand still.
            busy_poll: BusyPoll::default(),
            receive_window_bytes_max: SESSION_WINDOW_BYTES,
            patience: Some(person.deadline),
        };
        let (link, events) = Link::open(endpoint, target).await?;
        let settings = Settings {
            dirty_bytes_max: DIRTY_BYTES,
            ..Settings::new(CACHE_BYTES, Some(person.deadline))
        };
        let remote = QuicRemote::new(Arc::clone(&link));
        let fs = Arc::new(FileSystem::new(remote, NodePath::root(), settings));
        fs.shared().rescue.keep_in(rescue);
        let mut background = JoinSet::new();
        background.spawn(follow(Arc::clone(&fs), events));
        background.spawn(tend(Arc::clone(&fs)));
        Ok(Self {
            fs,
            link,
            _background: background,
        })
    }

    pub(crate) fn is_connected(&self) -> bool {
        matches!(self.link.state(), LinkState::Connected(_))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.link.close();
    }
}
