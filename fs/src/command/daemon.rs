//! The life of a mount: connect, mount, serve, unmount.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use lacuna_transport::attr::NodeKind;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::connect::with_deadline;
use super::mount::{DAEMON_ENV, READY};
use super::save;
use crate::client::connect::connect;
use crate::control::{Answers, ControlSocket};
use crate::file_system::FileSystem;
use crate::file_system::follow::{follow, tend};
use crate::fuse::adapter::Adapter;
use crate::fuse::busy_poll::BusyPoll;
use crate::fuse::confine;
use crate::fuse::mount::{self, MountGuard, MountRequest};
use crate::fuse::notify;
use crate::location::Location;
use crate::mount_options::{MountOptions, TIMEOUT_DEFAULT};
use crate::remote::Remote;
use crate::remote::link::Link;
use crate::remote::quic::QuicRemote;
use crate::state::StateDir;
use crate::status::{MountName, MountStatus};

/// How long the last users of a mount are served after a signal took its name away.
const LINGER: Duration = Duration::from_secs(5);
/// How long nothing may go on while what is left is saved after `umount -f`, also with `-o hard`: whoever says so wants
/// an end of it.
const FORCED_IDLE_MAX: Duration = Duration::from_secs(5);
/// How long saying goodbye to the server may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Letters of a mountpoint in the name of its log.
const LOG_NAME_LETTERS: usize = 60;

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

/// A file name that stands for a mountpoint: readable, short, and its own.
pub fn log_name(mountpoint: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    mountpoint.hash(&mut hasher);
    let text = mountpoint.to_string_lossy();
    let letters = text.trim_matches('/').chars().map(|letter| {
        if letter.is_ascii_alphanumeric() {
            letter
        } else {
            '-'
        }
    });
    let tail: String = letters
        .rev()
        .take(LOG_NAME_LETTERS)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect();
    format!("{tail}-{:016x}", hasher.finish())
}

/// Tells the kernel that it may wait for us to write back memory: our own allocations then do not wait for
/// write-back, which could be of a loop device on this very mount. Threads made later inherit it.
fn become_io_flusher() {
    if let Err(error) = rustix::process::configure_io_flusher_behavior(true) {
        tracing::debug!(%error, "cannot become an IO flusher (it takes CAP_SYS_RESOURCE)");
    }
}

/// Serves a mount until it is unmounted or told to end.
pub fn run(state: &StateDir, job: Job) -> anyhow::Result<()> {
    let daemon = std::env::var_os(DAEMON_ENV).is_some();
    if daemon {
        // Fails only for a process that leads a group already, which is as good.
        let _ = rustix::process::setsid();
    }
    become_io_flusher();
    confine::begin(state.path()).context("cannot give up privileges")?;
    // One thread for everything that is not the FUSE reader: a request that waits for the server costs two wake-ups, with
    // two threads it costs five. What takes long (packing, hashing, files) is done on the blocking pool.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let served = runtime.block_on(serve(state, job, daemon));
    runtime.shutdown_timeout(Duration::from_millis(100));
    served
}

async fn serve(state: &StateDir, job: Job, daemon: bool) -> anyhow::Result<()> {
    let (link, events) = connect(
        state,
        &job.location,
        job.options.compress,
        &job.options.memory,
        job.options.timeout,
    )
    .await?;
    link.target().busy_poll.allow();
    let remote = QuicRemote::new(Arc::clone(&link));
    let root = &job.location.path;
    let attr = with_deadline(tokio::time::timeout(TIMEOUT_DEFAULT, remote.stat(root)).await);
    let attr = attr.with_context(|| format!("cannot mount {}", job.location))?;
    if attr.kind != NodeKind::Folder {
        bail!(
            "{} is a volume: mount the folder it is in, and find it there as a file",
            job.location
        );
    }
    // A server that takes no changes makes the mount read-only, so that tools hear it from the kernel.
    let read_only = job.options.read_only || link.is_read_only();
    let fs = Arc::new(FileSystem::new(remote, root.clone(), job.options.settings()));
    fs.shared().rescue.keep_in(state.rescue());
    let mounts = state.mounts()?;
    let control = ControlSocket::bind(&mounts).with_context(|| {
        format!(
            "cannot open the control socket in {} (is the path too long? see --state)",
            mounts.display()
        )
    })?;

    let request = MountRequest {
        source: job.source.clone(),
        mountpoint: job.mountpoint.clone(),
        allow_other: job
            .options
            .allow_other
            .unwrap_or(rustix::process::geteuid().is_root()),
        noexec: job.options.noexec,
        read_only,
    };
    // From here on a signal must not end us without unmounting.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Two mounts at one place, at once: the second finds the first.
    let claim = claim(&mounts, &job.mountpoint)?;
    mount::check_mountpoint(&job.mountpoint)?;
    let device = mount::mount(&request)?;
    drop(claim);
    let guard = MountGuard::new(&job.mountpoint);
    if let Err(error) = confine::once_mounted() {
        tracing::warn!(%error, "system calls are not restricted");
    }
    let poll = device.try_clone().and_then(BusyPoll::new);
    let poll = poll
        .inspect_err(|error| tracing::warn!(%error, "requests are not polled for"))
        .ok();
    let adapter = Adapter::new(Arc::clone(&fs), tokio::runtime::Handle::current(), poll);
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
        device: mount::mount_at(&job.mountpoint)?
            .map(|entry| entry.device)
            .unwrap_or_default(),
    };
    let serving = Arc::new(AtomicBool::new(true));
    let outcome = Arc::new(watch::Sender::new(None));
    let answers = Answers {
        status: status_of(name, Arc::clone(&serving), Arc::clone(&link), Arc::clone(&fs)),
        flush: flush_of(Arc::clone(&fs), &job),
        outcome: Arc::clone(&outcome),
    };
    // These go on until everything is saved, not only for as long as it is mounted.
    let mut background = JoinSet::new();
    background.spawn(async move { control.serve(answers).await });
    background.spawn(follow(Arc::clone(&fs), events));
    background.spawn(tend(Arc::clone(&fs)));
    say_ready(daemon)?;

    let mut in_use = true;
    let mut patience = job.options.timeout;
    let result = tokio::select! {
        result = &mut ended => {
            in_use = false;
            // The kernel says the same after `umount` and `umount -f`, but what is in use keeps its name then.
            if guard.is_mounted() {
                tracing::warn!("unmounted by force: who waited for it got an error");
                patience = Some(patience.map_or(FORCED_IDLE_MAX, |patience| patience.min(FORCED_IDLE_MAX)));
            }
            result.context("the FUSE thread died").flatten()
        }
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    };
    sd_notify::notify(&[sd_notify::NotifyState::Stopping]).ok();
    // Both may wait for our answers, which other threads give.
    tokio::task::spawn_blocking(move || drop(guard)).await?;
    if in_use && tokio::time::timeout(LINGER, &mut ended).await.is_err() {
        tracing::warn!("still in use: its users get errors from now on");
    }
    serving.store(false, Ordering::Relaxed);
    fs.shared().notices.close();
    fs.shared().close();
    let saved = save::at_the_end(&fs, &job.source, patience).await;
    if saved.is_err()
        && let Some(session) = link.session_now()
    {
        session.close_unsaved();
    }
    if tokio::time::timeout(GOODBYE, link.close_and_wait())
        .await
        .is_err()
    {
        tracing::debug!("the server did not take our goodbye");
    }
    outcome.send_replace(Some(save::word(&saved)));
    if tokio::time::timeout(GOODBYE, outcome.closed()).await.is_err() {
        tracing::debug!("somebody who waits for our end does not listen");
    }
    // Takes the control socket along.
    background.shutdown().await;
    saved.and(result)
}

/// Holds the mountpoint against other mounts of this state folder until dropped.
fn claim(mounts: &Path, mountpoint: &Path) -> anyhow::Result<std::fs::File> {
    let path = mounts.join(format!("{}.lock", log_name(mountpoint)));
    let open = || {
        let file = std::fs::File::create(&path)?;
        file.lock()?;
        std::io::Result::Ok(file)
    };
    open().with_context(|| format!("cannot lock {}", path.display()))
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
    serving: Arc<AtomicBool>,
    link: Arc<Link>,
    fs: Arc<FileSystem<QuicRemote>>,
) -> Box<dyn Fn() -> String + Send + Sync> {
    Box::new(move || {
        let status = MountStatus::of(&name, serving.load(Ordering::Relaxed), &link, fs.shared());
        serde_json::to_string(&status).unwrap_or_default()
    })
}

fn flush_of(
    fs: Arc<FileSystem<QuicRemote>>,
    job: &Job,
) -> Box<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync> {
    let (source, timeout) = (job.source.clone(), job.options.timeout);
    Box::new(move || {
        let (fs, source) = (Arc::clone(&fs), source.clone());
        Box::pin(async move { save::word(&save::now(&fs, &source, timeout).await) })
    })
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
