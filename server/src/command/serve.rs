//! `lacunad serve`

mod named;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use lacuna_transport::path::NodeName;
use lacuna_transport::quic::identity::Identity;
use lacuna_transport::quic::{endpoint, packing};
use lacuna_transport::size;
use quinn::Endpoint;
use rustix::process::{Resource, Rlimit};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use self::named::NamedPath;
use crate::access::AllowList;
use crate::backend::device::Device;
use crate::backend::export::{Export, NamedVolume};
use crate::backend::sparse_file::SparseFiles;
use crate::backend::stream::options::StreamOptions;
use crate::backend::stream::{Stream, StreamVolume};
use crate::confine;
use crate::confine::landlock::Reach;
use crate::confine::user::Account;
use crate::control::ControlSocket;
use crate::lease::LINGER_DEFAULT;
use crate::memory::{self, Division};
use crate::serve::workers::Workers;
use crate::serve::{Bounds, Server};
use crate::state::{self, DaemonLock};

/// The port of lacuna, over UDP.
const DEFAULT_PORT: u16 = 7117;

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// The folder whose regular files are the volumes.
    dir: PathBuf,
    #[arg(
        long,
        value_name = "ADDR:PORT",
        help = "Where to listen, over UDP [default: [::]:7117, which is IPv4 too]"
    )]
    listen: Option<SocketAddr>,
    /// No client may change anything.
    #[arg(long)]
    read_only: bool,
    /// Also serve a block device, as a volume of this name and the device's size beside the files of DIR. Nothing
    /// else of this machine may use the device meanwhile. May be given more than once.
    #[arg(long = "device", value_name = "NAME=DEVICE")]
    devices: Vec<NamedPath>,
    #[arg(
        long = "stream",
        value_name = "NAME=FIFO,size=SIZE[,OPTION...]",
        help = "A volume NAME whose bytes go into the pipe FIFO, once and in order (made if missing)",
        long_help = STREAM_HELP
    )]
    streams: Vec<StreamOptions>,
    /// Give up root for this account once the socket and the devices are open. The state folder must be its own. Files
    /// that clients make are then its own too, and owners cannot be changed
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Finish each stream when the last mount that had it open for writing is unmounted
    #[arg(long, requires = "streams")]
    finish_on_umount: bool,
    /// Most memory for all that clients cause: requests, replies, writes, open volumes, sessions. What is needed
    /// beyond it stays below 64 MiB. More of it means more clients at once [default: a quarter of the machine's,
    /// at most 1G]
    #[arg(long, value_name = "SIZE", value_parser = memory_size)]
    memory: Option<u64>,
    /// How long a volume is kept for a client that wrote to it and lost its connection; then another may write, and
    /// what the first one still had to save is refused
    #[arg(long, value_name = "SECS", default_value_t = LINGER_DEFAULT.as_secs(), value_parser = lease_secs)]
    lease_time: u64,
    #[command(flatten)]
    state: super::State,
}

fn memory_size(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text)?;
    Division::of(bytes).map_err(|error| format!("{text} is {error}"))?;
    Ok(bytes)
}

fn lease_secs(text: &str) -> Result<u64, String> {
    let secs = text
        .parse()
        .ok()
        .filter(|secs| (1..=LEASE_SECS_MAX).contains(secs));
    secs.ok_or_else(|| format!("give a whole number of seconds, from 1 to {LEASE_SECS_MAX}"))
}

/// A day: longer than any network is out that is to come back by itself.
const LEASE_SECS_MAX: u64 = 24 * 3600;

const STREAM_HELP: &str = "\
A volume NAME whose bytes go into the pipe FIFO, once and in order. The pipe is made if it is missing. Writes land in
a sparse spool below the state folder; ranges that are never written read zero. Nothing goes out before
`lacuna finish`, unless the spool has no room. Options:

  size=SIZE         size of the volume, which it keeps (K, M, G, T: units of 1024)
  spool=SIZE        most bytes in the spool: beyond that the lowest go out, and a write to what is out fails with EIO
                    [default: what its disk has room for]
  window=SIZE       bytes behind that stay readable [default: 1M]
  format=raw        holes as zeros [default]
  format=lacuna     data and holes as records (docs/PROTOCOL.md)
  finish-on-umount  as --finish-on-umount, for this stream";

/// What is opened before root is given up. Errors are told after those of the state folder.
struct Opened {
    socket: anyhow::Result<UdpSocket>,
    devices: anyhow::Result<BTreeMap<NodeName, Device>>,
}

impl Serve {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let folder = SparseFiles::new(&self.dir)?;
        let dir = std::fs::canonicalize(&self.dir).unwrap_or_else(|_| self.dir.clone());
        let account = self.user.as_deref().map(Account::find).transpose()?;
        let state = state::folder(self.state.state.as_deref(), account.as_ref())?;
        anyhow::ensure!(
            !state.starts_with(&dir),
            "cannot serve {}: the state folder {} lies in it, and this server's key with it; name another with --state",
            dir.display(),
            state.display()
        );
        let opened = Opened {
            socket: listen(self.listen),
            devices: named::open(&self.devices, self.read_only),
        };
        if let Some(account) = &account {
            account.assume()?;
            account.check_state(&state)?;
            account.check_export(folder.dir(), &dir)?;
        }
        let _lock = DaemonLock::take(&state)?;
        let identity = super::identity(&state)?;
        // A corrupt list is found now, not by the first client.
        let allowed = AllowList::load(&state)?.entries().count();
        raise_descriptor_limit();
        let (devices, socket) = (opened.devices?, opened.socket?);
        let cores = packing::cores();
        // Looked at before the sandbox closes.
        let memory_bytes = self
            .memory
            .unwrap_or_else(|| memory::default_bytes(machine_bytes()));
        let (memory_bytes, map_bytes) = memory::with_streams(memory_bytes, self.streams.len());
        self.confine(&folder, &state)?;

        let named = self.named(devices, &state, map_bytes)?;
        let backend = Export::new(Arc::new(folder), named)?;
        let bounds = Bounds {
            memory_bytes,
            lease_linger: Duration::from_secs(self.lease_time),
            ..Bounds::default()
        };
        let server = Server::with_bounds(Arc::new(backend), state.clone(), self.read_only, bounds)?;
        let runtime = Workers::runtime().context("cannot start the runtime")?;
        let result = runtime.block_on(async {
            let endpoint = endpoint::server_on(&identity, socket).context("cannot start to listen")?;
            if allowed == 0 {
                tracing::warn!("no client is allowed yet; admit one with: lacunad allow KEY");
            }
            let workers = Workers::start(cores).context("cannot start the threads that serve")?;
            serve(&server, &workers, endpoint, &dir, &identity, &state).await
        });
        // Reads of a dead disk must not keep us.
        runtime.shutdown_background();
        result
    }

    /// The last step before anything has a thread of its own.
    fn confine(&self, folder: &SparseFiles, state: &Path) -> anyhow::Result<()> {
        for options in &self.streams {
            Stream::make_pipe(options)
                .with_context(|| format!("cannot serve the stream '{}'", options.name))?;
        }
        let pipes: Vec<_> = self.streams.iter().map(|options| options.fifo.clone()).collect();
        let reach = Reach {
            export: folder.dir(),
            read_only: self.read_only,
            state,
            pipes: &pipes,
        };
        Ok(confine::confine(&reach)?)
    }

    /// Volumes that are not files of the folder. What is known of the spool of each stream takes `map_bytes` at most.
    fn named(
        &self,
        devices: BTreeMap<NodeName, Device>,
        state: &Path,
        map_bytes: u64,
    ) -> anyhow::Result<BTreeMap<NodeName, Arc<dyn NamedVolume>>> {
        let mut named = named::search(devices)?;
        for options in &self.streams {
            let mut options = options.clone();
            options.finish_on_umount |= self.finish_on_umount;
            options.map_bytes = map_bytes;
            let name = options.name.clone();
            anyhow::ensure!(
                !named.contains_key(&name),
                "two volumes have the name '{name}': give one another"
            );
            let stream =
                Stream::start(options, state).with_context(|| format!("cannot serve the stream '{name}'"))?;
            named.insert(name, Arc::new(StreamVolume(stream)));
        }
        Ok(named)
    }
}

async fn serve(
    server: &Arc<Server>,
    workers: &Workers,
    endpoint: Endpoint,
    dir: &Path,
    identity: &Identity,
    state: &Path,
) -> anyhow::Result<()> {
    let control = ControlSocket::bind(state)?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down");
        tell_systemd(NotifyState::Stopping);
    };
    let address = endpoint.local_addr().context("cannot tell the address")?;
    let mut out = std::io::stdout();
    // Whoever started us may have closed its end; that is no reason not to serve.
    let _ = writeln!(
        out,
        "lacunad: serving {} on {address}, identity {}",
        dir.display(),
        identity.id()
    );
    let _ = out.flush();
    tell_systemd(NotifyState::Ready);
    tokio::select! {
        ended = server.run_on(workers, endpoint, shutdown) => Ok(ended?),
        () = control.run(server) => Ok(()),
    }
}

/// Binds where told; without that on all addresses, of IPv4 only where there is no IPv6.
fn listen(named: Option<SocketAddr>) -> anyhow::Result<UdpSocket> {
    let first = named.unwrap_or_else(|| (Ipv6Addr::UNSPECIFIED, DEFAULT_PORT).into());
    let (address, bound) = match endpoint::socket(first) {
        Err(error) if named.is_none() && no_ipv6(&error) => {
            let second = (Ipv4Addr::UNSPECIFIED, DEFAULT_PORT).into();
            (second, endpoint::socket(second))
        }
        other => (first, other),
    };
    bound.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "cannot listen on {address}: the port is in use; stop what uses it, or choose another with --listen"
        ),
        std::io::ErrorKind::PermissionDenied => {
            anyhow::anyhow!("cannot listen on {address}: permission denied; choose a port above 1023 with --listen")
        }
        std::io::ErrorKind::AddrNotAvailable => {
            anyhow::anyhow!("cannot listen on {address}: this machine has no such address; see --listen")
        }
        _ => anyhow::Error::new(error).context(format!("cannot listen on {address}")),
    })
}

fn no_ipv6(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
    )
}

/// The memory of this machine.
fn machine_bytes() -> u64 {
    let machine = rustix::system::sysinfo();
    machine.totalram.saturating_mul(u64::from(machine.mem_unit))
}

/// Each open volume takes a descriptor.
fn raise_descriptor_limit() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn tell_systemd(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell systemd");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_time_that_is_none_is_told_what_is_wanted() {
        assert_eq!(lease_secs("1"), Ok(1));
        for text in ["abc", "", "0", "-1", "30s", "86401"] {
            let error = lease_secs(text).unwrap_err();
            assert!(error.contains("seconds, from 1 to 86400"), "{text}: {error}");
        }
    }
}
