//! lacuna for programs: the volumes of a server, without a mount.
//!
//! A [`Client`] is one authenticated session that is made anew when it is lost. A [`Volume`] reads, writes,
//! punches and tells its extents as a file on a mount does, with the same map, cache and write-back: holes
//! cost nothing, and what was written is kept here until the server has flushed it. A [`SparseReader`] and a
//! [`SparseWriter`] move whole ranges as [`Piece`]s of data and holes; both also are `AsyncRead` and
//! `AsyncWrite` for programs that know bytes alone.
//!
//! ```no_run
//! use lacuna::client::{Access, Client, Options, Piece};
//!
//! # async fn example() -> Result<(), lacuna::error::Error> {
//! let client = Client::connect("storage.example", Options::default()).await?;
//! let image = client.open("images/debian.raw", Access::Read).await?;
//! let mut pieces = image.reader(0..image.size())?;
//! let mut data_bytes = 0;
//! while let Some(piece) = pieces.next().await? {
//!     match piece {
//!         Piece::Data(bytes) => data_bytes += bytes.len(),
//!         Piece::Hole(_) => {}
//!     }
//! }
//! println!("{data_bytes} of {} bytes are data", image.size());
//!
//! let copy = client.create("images/copy.raw", 1 << 30).await?;
//! copy.write(4096, b"hello").await?;
//! copy.punch(0..4096).await?;
//! copy.flush().await?;
//! client.close().await
//! # }
//! ```

pub mod connect;
mod reader;
mod volume;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lacuna_transport::attr::{Attr, NewNode, NodeKind};
use lacuna_transport::id::NodeId;
use lacuna_transport::path::NodePath;
use tokio::task::JoinSet;

pub use self::reader::SparseReader;
pub use self::volume::Volume;
pub use self::writer::SparseWriter;
pub use crate::compress::Compress;
use crate::error::{Error, ErrorKind, Result};
use crate::file_system::FileSystem;
use crate::file_system::changes::Reach;
use crate::file_system::follow::{follow, tend};
use crate::location::Location;
use crate::memory::Division;
use crate::mount_options::TIMEOUT_DEFAULT;
pub use crate::remote::Access;
use crate::remote::Remote;
use crate::remote::link::Link;
use crate::remote::quic::QuicRemote;
use crate::state::StateDir;
use crate::volume::shared::Settings;
pub use crate::zeros::Piece;

/// Bytes on their way or not flushed yet, unless said otherwise: twice what a link of 2.5 Gbit/s holds at 100 ms.
pub const WINDOW_BYTES_DEFAULT: u64 = 64 << 20;
/// Less than a few requests would make each wait for the one before.
pub const WINDOW_BYTES_MIN: u64 = 4 << 20;

/// How a [`Client`] behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder with this client's key and the servers it trusts; `None` is where `lacuna` has it.
    pub state: Option<PathBuf>,
    /// Most bytes read ahead, and most bytes written and not flushed, at least [`WINDOW_BYTES_MIN`].
    pub window_bytes: u64,
    /// How payloads are packed on the wire, where the server can.
    pub compress: Compress,
    /// How long a call may wait for the server when nothing goes on; `None` waits for ever.
    pub timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            state: None,
            window_bytes: WINDOW_BYTES_DEFAULT,
            compress: Compress::default(),
            timeout: Some(TIMEOUT_DEFAULT),
        }
    }
}

impl Options {
    fn settings(&self) -> Settings {
        let window_bytes = self.window_bytes.max(WINDOW_BYTES_MIN);
        Settings {
            dirty_bytes_max: window_bytes,
            // A read may pin half of the budget, and its bytes stay until who reads has taken them.
            ..Settings::new(window_bytes.saturating_mul(4), self.timeout)
        }
    }
}

/// A server. See the [module](self).
#[derive(Debug)]
pub struct Client<R: Remote = QuicRemote> {
    fs: Arc<FileSystem<R>>,
    window_bytes: u64,
    link: Option<Arc<Link>>,
    background: JoinSet<()>,
}

impl Client {
    /// Connects to `HOST[:PORT]`, which has to be trusted (`lacuna trust`) and has to admit this client
    /// (`lacunad allow`).
    pub async fn connect(server: &str, options: Options) -> Result<Self> {
        let location = Location::parse(server).map_err(|text| Error::new(ErrorKind::Invalid, text))?;
        Self::connect_to(&location, options).await
    }

    /// As [`Self::connect`]; the path of the location is not used.
    pub async fn connect_to(location: &Location, options: Options) -> Result<Self> {
        let state = StateDir::find(options.state.clone())?;
        let (link, events) = connect::connect(
            &state,
            location,
            options.compress,
            &Division::default(),
            options.timeout,
        )
        .await?;
        let mut client = Self::over(QuicRemote::new(Arc::clone(&link)), &options);
        client.link = Some(link);
        client.background.spawn(follow(Arc::clone(&client.fs), events));
        client.background.spawn(tend(Arc::clone(&client.fs)));
        Ok(client)
    }
}

impl<R: Remote> Client<R> {
    /// A client of any server: for tests, a server in memory.
    pub fn over(remote: R, options: &Options) -> Self {
        let settings = options.settings();
        Self {
            fs: Arc::new(FileSystem::new(remote, NodePath::root(), settings)),
            window_bytes: settings.dirty_bytes_max,
            link: None,
            background: JoinSet::new(),
        }
    }

    /// True if the server takes no changes from this client.
    pub fn is_read_only(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_read_only())
    }

    /// Bytes of QUIC payload sent and received so far.
    pub fn wire_bytes(&self) -> (u64, u64) {
        self.link.as_ref().map_or((0, 0), |link| {
            let traffic = &link.counters().traffic;
            (
                traffic.sent.load(Ordering::Relaxed),
                traffic.received.load(Ordering::Relaxed),
            )
        })
    }

    /// Opens a volume that is there.
    pub async fn open(&self, path: &str, access: Access) -> Result<Volume<R>> {
        self.open_path(&parse(path)?, access).await
    }

    /// As [`Self::open`].
    pub async fn open_path(&self, path: &NodePath, access: Access) -> Result<Volume<R>> {
        let attr = self.walk(path).await?;
        let opened = match attr.kind {
            NodeKind::Volume => self.fs.open(attr.id, access).await,
            NodeKind::Folder => Err(Error::new(
                ErrorKind::NotVolume,
                format!("'{path}' is a folder, not a volume"),
            )),
        };
        match opened {
            Ok((open, _)) => Ok(self.volume(path, attr.id, open)),
            Err(error) => {
                self.fs.forget(attr.id, 1);
                Err(error)
            }
        }
    }

    /// Makes a volume of `size` bytes, all hole; it must not be there yet.
    pub async fn create(&self, path: &str, size: u64) -> Result<Volume<R>> {
        self.create_path(&parse(path)?, size).await
    }

    /// As [`Self::create`].
    pub async fn create_path(&self, path: &NodePath, size: u64) -> Result<Volume<R>> {
        let (folder, name) = path
            .split()
            .ok_or_else(|| Error::new(ErrorKind::Exists, "the exported folder is no volume"))?;
        let folder = if folder.is_root() {
            NodeId::ROOT
        } else {
            self.walk(&folder).await?.id
        };
        let node = NewNode {
            mode: 0o644,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        let created = self.fs.create(folder, &name, node, true).await;
        if created.is_ok() {
            // The name is as durable as the content will be.
            self.fs.flush_folder(folder).await?;
        }
        if folder != NodeId::ROOT {
            self.fs.forget(folder, 1);
        }
        let (attr, open) = created?;
        let volume = self.volume(path, attr.id, open);
        if size > 0 {
            volume.resize(size).await?;
        }
        Ok(volume)
    }

    /// Has everything saved that was written, and says goodbye.
    pub async fn close(mut self) -> Result<()> {
        let saved = self.fs.flush_all().await.into_iter().next();
        if let Some(link) = self.link.take() {
            link.close_and_wait().await;
        }
        self.background.shutdown().await;
        saved.map_or(Ok(()), Err)
    }

    /// Attributes of what is at `path`; it stays known until it is forgotten.
    async fn walk(&self, path: &NodePath) -> Result<Attr> {
        let (folder, name) = path.split().ok_or_else(|| {
            let text = "no volume is named: write HOST[:PORT]/VOLUME";
            Error::new(ErrorKind::Invalid, text)
        })?;
        if folder.is_root() {
            return self.fs.lookup(NodeId::ROOT, &name).await;
        }
        let parent = Box::pin(self.walk(&folder)).await?.id;
        let found = self.fs.lookup(parent, &name).await;
        self.fs.forget(parent, 1);
        found
    }

    fn volume(&self, path: &NodePath, id: NodeId, open: crate::file_system::OpenId) -> Volume<R> {
        // A punch is done at the server when it returns.
        self.fs.set_reach(open, Reach::Server);
        Volume::new(Arc::clone(&self.fs), path.clone(), id, open, self.window_bytes)
    }
}

fn parse(path: &str) -> Result<NodePath> {
    NodePath::parse(path.as_bytes())
        .map_err(|error| Error::new(ErrorKind::Invalid, format!("'{path}': {error}")))
}

#[cfg(test)]
mod tests;
