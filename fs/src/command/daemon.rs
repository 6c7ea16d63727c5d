//! The life of a mount: connect, mount, serve, unmount.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use lacuna_transport::attr::NodeKind;
use lacuna_transport::range::ByteRange;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::connect::connect;
use super::mount::{DAEMON_ENV, READY};
use crate::control::ControlSocket;
use crate::file_system::FileSystem;
use crate::fuse::adapter::Adapter;
use crate::fuse::mount::{self, MountGuard, MountRequest};
use crate::fuse::notify;
use crate::location::Location;
use crate::mount_options::MountOptions;
use crate::remote::Remote;
use crate::remote::link::{Event, Link};
use crate::remote::quic::QuicRemote;
use crate::state::StateDir;
use crate::status::{MountName, MountStatus};

/// Threads for everything that is not the FUSE reader.
const WORKERS: usize = 2;
/// How long the last users of a mount are served after a signal took its name away.
const LINGER: Duration = Duration::from_secs(5);
/// How long saying goodbye to the server may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// What to mount where.
#[derive(Debug)]
pub struct Job {
    /// As the user wrote it.
    pub source: String,
    pub location: Location,
    /// Checked and absolute.
    pub mountpoint: PathBuf,
    pub options: MountOptions,
}

/// A file name for the log of a mount.
pub fn log_name(mountpoint: &Path) -> String {
    mountpoint.to_string_lossy().trim_matches('/').replace('/', "-")
}

/// Serves a mount until it is unmounted or told to end.
pub fn run(state: &StateDir, job: Job) -> anyhow::Result<()> {
    let daemon = std::env::var_os(DAEMON_ENV).is_some();
    if daemon {
        // Fails only for a process that leads a group already, which is as good.
        let _ = rustix::process::setsid();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?;
    let served = runtime.block_on(serve(state, job, daemon));
    runtime.shutdown_timeout(Duration::from_millis(100));
    served
}

async fn serve(state: &StateDir, job: Job, daemon: bool) -> anyhow::Result<()> {
    let (link, events) = connect(state, &job.location).await?;
    let remote = QuicRemote::new(Arc::clone(&link));
    let root = &job.location.path;
    let attr = remote
        .stat(root)
        .await
        .with_context(|| format!("cannot mount {}", job.location))?;
    if attr.kind != NodeKind::Folder {
        bail!(
            "{} is a volume: mount the folder it is in, and find it there as a file",
            job.location
        );
    }
    let fs = Arc::new(FileSystem::new(
        remote,
        root.clone(),
        job.options.cache_bytes,
        job.options.timeout,
    ));
    let control = ControlSocket::bind(&state.mounts()?).context("cannot open the control socket")?;

    let request = MountRequest {
        source: job.source.clone(),
        mountpoint: job.mountpoint.clone(),
        allow_other: job
            .options
            .allow_other
            .unwrap_or(rustix::process::geteuid().is_root()),
        noexec: job.options.noexec,
    };
    let device = mount::mount(&request)?;
    let guard = MountGuard::new(&job.mountpoint);
    let adapter = Adapter::new(Arc::clone(&fs), tokio::runtime::Handle::current());
    let mut ended = start_fuse(adapter, device, &fs)?;
    let mountpoint = job.mountpoint.clone();
    match tokio::task::spawn_blocking(move || mount::raise_readahead(&mountpoint)).await? {
        Ok(()) => {}
        Err(error) => {
            tracing::warn!(%error, "cannot raise the kernel's readahead: sequential reads will be slower")
        }
    }
    let name = MountName {
        mountpoint: job.mountpoint.to_string_lossy().into_owned(),
        source: job.location.to_string(),
    };
    let status = status_of(name, Arc::clone(&link), Arc::clone(&fs));
    say_ready(daemon)?;

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut serving = true;
    let result = tokio::select! {
        result = &mut ended => {
            serving = false;
            result.context("the FUSE thread died").flatten()
        }
        () = control.serve(status) => Ok(()),
        () = follow(&fs, events) => Ok(()),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    };
    sd_notify::notify(&[sd_notify::NotifyState::Stopping]).ok();
    // Both may wait for our answers, which other threads give.
    tokio::task::spawn_blocking(move || drop(guard)).await?;
    if serving && tokio::time::timeout(LINGER, &mut ended).await.is_err() {
        tracing::warn!("still in use: its users get errors from now on");
    }
    fs.shared().notices.close();
    if tokio::time::timeout(GOODBYE, link.close_and_wait())
        .await
        .is_err()
    {
        tracing::debug!("the server did not take our goodbye");
    }
    drop(control);
    result
}

/// Serves FUSE requests on threads of their own; the receiver tells when that ended.
fn start_fuse(
    adapter: Adapter<QuicRemote>,
    device: std::os::fd::OwnedFd,
    fs: &Arc<FileSystem<QuicRemote>>,
) -> anyhow::Result<oneshot::Receiver<anyhow::Result<()>>> {
    let (sender, receiver) = oneshot::channel();
    let (ready, started) = std::sync::mpsc::channel();
    let shared = Arc::clone(fs.shared());
    std::thread::Builder::new()
        .name("fuse".to_owned())
        .spawn(move || {
            let config = fuser::Config::default();
            let session = match fuser::Session::from_fd(adapter, device, fuser::SessionACL::All, config) {
                Ok(session) => session,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let notifier = notify::start(shared, session.notifier());
            let _ = ready.send(notifier.map(drop));
            let _ = sender.send(session.run().context("serving FUSE failed"));
        })?;
    started
        .recv()
        .context("the FUSE thread died")?
        .context("cannot start FUSE")?;
    Ok(receiver)
}

fn status_of(
    name: MountName,
    link: Arc<Link>,
    fs: Arc<FileSystem<QuicRemote>>,
) -> impl Fn() -> String + Clone + Send + 'static {
    move || {
        let status = MountStatus::of(&name, &link, fs.shared());
        serde_json::to_string(&status).unwrap_or_default() + "\n"
    }
}

/// Takes in what the server tells. Ends with the link.
async fn follow(fs: &Arc<FileSystem<QuicRemote>>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Changed(change) => fs.changed(&change),
            Event::Reconnected => {
                // Changes may have been missed: look at every open volume again, in the background.
                let fs = Arc::clone(fs);
                tokio::spawn(async move {
                    for volume in fs.open_volumes() {
                        match fs.shared().remote.stat(&volume.path()).await {
                            Ok(attr) if attr.id == volume.attr().id => volume.update(attr, ByteRange::ALL),
                            Ok(_) => tracing::warn!(volume = %volume.path(), "was replaced at the server"),
                            Err(error) => {
                                tracing::warn!(volume = %volume.path(), %error, "cannot look at it again")
                            }
                        }
                    }
                });
            }
        }
    }
    std::future::pending::<()>().await;
}

/// Tells whoever started us that the mount is usable.
fn say_ready(daemon: bool) -> anyhow::Result<()> {
    sd_notify::notify(&[sd_notify::NotifyState::Ready]).ok();
    if daemon {
        let mut out = std::io::stdout();
        out.write_all(READY.as_bytes())
            .and_then(|()| out.flush())
            .context("nobody waits for this mount")?;
        // The parent reads until this end is closed.
        rustix::stdio::dup2_stdout(mount::null_device()?)?;
    }
    Ok(())
}
