//! A link: the session of a mount, made again with back-off when it is lost.
//!
//! While there is a session it is listened to (`hearing`): a server from which nothing comes any more cannot be
//! asked, long before the session is given up.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lacuna_transport::id::InstanceId;
use lacuna_transport::quic::endpoint;
use lacuna_transport::wire::event;
use lacuna_transport::wire::message::Features;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::Change;
pub use super::Event;
use super::address::{Addresses, refusal};
use super::backoff::{Backoff, PAUSE_WANTED};
use super::hearing::{Heard, Hearing, TICK};
use super::session::{LinkCounters, RequestError, Session, Target};
use crate::error::{Error, ErrorKind, Result};
use crate::instance::{Claim, Dead};

/// Events not yet taken by the file system; a full queue slows the server's event stream down.
const EVENTS_MAX: usize = 1024;

/// For the reason of a connection that is lost to arrive behind the end of its streams: it was sent with them.
const REASON_TIMEOUT: Duration = Duration::from_millis(250);

/// Whether there is a session.
#[derive(Clone, Debug)]
pub enum LinkState {
    Connected(Arc<Session>),
    /// Since when, and what the last attempt said.
    Down(Instant, String),
    Closed,
}

#[derive(Debug)]
pub struct Link {
    target: Target,
    addresses: Addresses,
    endpoint: Mutex<quinn::Endpoint>,
    counters: Arc<LinkCounters>,
    sessions: AtomicU64,
    state: watch::Sender<LinkState>,
    /// Since when nothing comes from the server, although there is a session.
    silent_since: watch::Sender<Option<Instant>>,
    /// How many wait for a session.
    wanted: watch::Sender<usize>,
    /// Says that this instance lives, until it has said goodbye.
    claim: Mutex<Option<Claim>>,
}

/// Somebody waits for a session.
struct Wanting<'a>(&'a watch::Sender<usize>);

impl<'a> Wanting<'a> {
    fn begin(wanted: &'a watch::Sender<usize>) -> Self {
        wanted.send_modify(|count| *count += 1);
        Self(wanted)
    }
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Link {
    /// Connects for the first time; its failure is returned, not retried.
    pub async fn open(
        endpoint: quinn::Endpoint,
        target: Target,
    ) -> Result<(Arc<Self>, mpsc::Receiver<Event>)> {
        let counters = Arc::new(LinkCounters::default());
        let session = Session::open(&endpoint, &target, 1, Arc::clone(&counters)).await?;
        let state = watch::Sender::new(LinkState::Connected(Arc::new(session)));
        let link = Arc::new(Self {
            addresses: Addresses::new(&target.name, target.address),
            target,
            endpoint: Mutex::new(endpoint),
            counters,
            sessions: AtomicU64::new(1),
            state,
            silent_since: watch::Sender::new(None),
            wanted: watch::Sender::new(0),
            claim: Mutex::new(None),
        });
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        tokio::spawn(Arc::clone(&link).keep(sender));
        Ok((link, receiver))
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// True if the server takes no changes from this client.
    pub fn is_read_only(&self) -> bool {
        self.session_now().is_some_and(|session| {
            session.welcome.read_only || !session.welcome.features.contains(Features::CHANGES)
        })
    }

    pub fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    pub fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    /// The session, if there is one, lost or not. Never waits.
    pub fn session_now(&self) -> Option<Arc<Session>> {
        match &*self.state.borrow() {
            LinkState::Connected(session) => Some(Arc::clone(session)),
            LinkState::Down(..) | LinkState::Closed => None,
        }
    }

    /// The session; waits for one while there is none. The caller has the deadline.
    pub async fn session(&self) -> Result<Arc<Session>> {
        let mut state = self.state.subscribe();
        // A session that is lost is as good as none: it is about to be replaced.
        let usable = |state: &LinkState| match state {
            LinkState::Connected(session) => !session.is_closed(),
            LinkState::Down(..) => false,
            LinkState::Closed => true,
        };
        let _wanting = (!usable(&self.state())).then(|| Wanting::begin(&self.wanted));
        let found = state.wait_for(usable).await;
        match found.as_deref() {
            Ok(LinkState::Connected(session)) => Ok(Arc::clone(session)),
            _ => Err(Error::new(
                ErrorKind::Disconnected,
                format!("the link to {} is closed", self.target.name),
            )),
        }
    }

    /// Since when nothing comes from the server, if there is a session and that is long.
    pub fn silent_since(&self) -> Option<Instant> {
        *self.silent_since.borrow()
    }

    /// False while there is no session, or none that anything is heard of.
    pub fn is_reachable(&self) -> bool {
        let usable = matches!(&*self.state.borrow(), LinkState::Connected(session) if !session.is_closed());
        usable && self.silent_since().is_none()
    }

    /// Waits until the server cannot be asked.
    pub async fn unreachable(&self) {
        let (mut state, mut silent) = (self.state.subscribe(), self.silent_since.subscribe());
        while self.is_reachable() {
            let changed = tokio::select! {
                changed = state.changed() => changed,
                changed = silent.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Ends the session for good.
    pub fn close(&self) {
        let before = self.state.send_replace(LinkState::Closed);
        if let LinkState::Connected(session) = before {
            session.close();
        }
    }

    /// Holds this until the server was told goodbye.
    pub fn hold(&self, claim: Claim) {
        *self.claim.lock() = Some(claim);
    }

    /// Closes, and waits until the goodbye has left the machine.
    pub async fn close_and_wait(&self) {
        self.close();
        let endpoint = self.endpoint.lock().clone();
        endpoint.wait_idle().await;
        let claim = self.claim.lock().take();
        if let Some(Err(error)) = claim.map(Claim::end) {
            tracing::debug!(%error, "cannot remove the file of this instance");
        }
    }

    /// Says goodbye for instances that died without; gives back those that the server has heard of.
    pub async fn say_goodbye_for(&self, dead: Vec<Dead>) -> Vec<Dead> {
        let endpoint = self.endpoint.lock().clone();
        let mut heard = Vec::new();
        for dead in dead {
            let target = Target {
                instance: dead.instance,
                ..self.target.clone()
            };
            match Session::open(&endpoint, &target, 0, Arc::default()).await {
                Ok(session) => session.close(),
                Err(error) => {
                    tracing::debug!(%error, "cannot say goodbye for a process that died");
                    break;
                }
            }
            heard.push(dead);
        }
        heard
    }

    async fn keep(self: Arc<Self>, events: mpsc::Sender<Event>) {
        loop {
            let LinkState::Connected(session) = self.state() else {
                return;
            };
            let why = tokio::select! {
                why = self.listen(&session, &events) => why,
                never = self.watch(&session) => match never {},
            };
            self.silent_since.send_replace(None);
            let lost = self.state.send_if_modified(|state| match state {
                LinkState::Connected(_) => {
                    *state = LinkState::Down(Instant::now(), why.clone());
                    true
                }
                LinkState::Down(..) | LinkState::Closed => false,
            });
            if !lost {
                return;
            }
            tracing::warn!(server = %self.target.name, %why, "connection lost; connecting again");
            drop(session);
            if !self.reconnect().await || events.send(Event::Reconnected).await.is_err() {
                return;
            }
        }
    }

    /// Passes events on until the session ends; says why it did.
    async fn listen(&self, session: &Session, events: &mpsc::Sender<Event>) -> String {
        let mut stream = None;
        loop {
            let event = tokio::select! {
                event = session.event(&mut stream) => event,
                why = session.closed() => return why.to_string(),
            };
            match event {
                Ok(event::Event::VolumeChanged(change)) => {
                    let change = Change {
                        attr: change.attr,
                        range: change.range(),
                    };
                    if events.send(Event::Changed(change)).await.is_err() {
                        return "the mount ended".to_owned();
                    }
                }
                Ok(event::Event::LeaseRecalled(recalled)) => {
                    tracing::debug!(who = recalled.who, "another client wants to write to a volume");
                    let event = Event::Recalled(session.number, recalled.handle);
                    if events.send(event).await.is_err() {
                        return "the mount ended".to_owned();
                    }
                }
                Ok(event::Event::LocksFreed(_)) => {
                    if events.send(Event::LocksFreed).await.is_err() {
                        return "the mount ended".to_owned();
                    }
                }
                Err(RequestError::Protocol(error)) => {
                    session.close_broken(&error);
                    return error.to_string();
                }
                // The connection tells why, in a moment; one that goes on without events is of no use.
                Err(RequestError::Lost(_) | RequestError::Failed(..)) => {
                    let Ok(why) = timeout(REASON_TIMEOUT, session.closed()).await else {
                        let why = "the server ended the stream of its events";
                        session.close_deaf(why);
                        return why.to_owned();
                    };
                    return why.to_string();
                }
            }
        }
    }

    /// Looks if anything comes from the server, and knocks if nothing does.
    async fn watch(&self, session: &Arc<Session>) -> Infallible {
        let mut hearing = Hearing::default();
        // As many as there are ticks until the session times out.
        let mut knocks = JoinSet::new();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let heard = hearing.tick(session.datagrams_received());
            self.silent_since.send_if_modified(|since| {
                let silent = heard == Heard::Silent;
                let changed = since.is_some() != silent;
                if changed {
                    *since = silent.then(Instant::now);
                    tracing::debug!(server = %self.target.name, silent, "what is heard of the server");
                }
                changed
            });
            while knocks.try_join_next().is_some() {}
            if heard != Heard::Something {
                let session = Arc::clone(session);
                knocks.spawn(async move { session.knock().await });
            }
        }
    }

    /// Tries until there is a session (true) or the link is closed (false).
    async fn reconnect(&self) -> bool {
        let mut backoff = Backoff::default();
        loop {
            let is_refused;
            match self.attempt(self.addresses.next()).await {
                Ok(session) => {
                    let session = Arc::new(session);
                    let reopened = self.state.send_if_modified(|state| match state {
                        LinkState::Down(..) => {
                            *state = LinkState::Connected(session);
                            true
                        }
                        LinkState::Connected(_) | LinkState::Closed => false,
                    });
                    self.counters
                        .reconnects
                        .fetch_add(u64::from(reopened), Ordering::Relaxed);
                    return reopened;
                }
                Err(error) => {
                    is_refused = error.kind() == ErrorKind::NotAllowed;
                    tracing::debug!(%error, "not connected yet");
                    self.state.send_if_modified(|state| match state {
                        LinkState::Down(_, why) => {
                            *why = error.to_string();
                            false
                        }
                        LinkState::Connected(_) | LinkState::Closed => false,
                    });
                }
            }
            if self.target.is_known {
                self.addresses.look_up();
            }
            let spread = spread(self.target.instance, self.sessions.load(Ordering::Relaxed));
            if !self.pause(backoff.next_pause(spread), is_refused).await {
                return false;
            }
        }
    }

    async fn attempt(&self, address: SocketAddr) -> Result<Session> {
        let target = Target {
            address,
            ..self.target.clone()
        };
        let number = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
        let endpoint = self.endpoint_to(address)?;
        let session = tokio::select! {
            session = Session::open(&endpoint, &target, number, Arc::clone(&self.counters)) => session,
            error = refusal(&target.name, address), if target.is_known => Err(error),
        }?;
        self.addresses.worked(address);
        Ok(session)
    }

    /// An endpoint of the address family of `address`; one of another family takes the place of the last.
    fn endpoint_to(&self, address: SocketAddr) -> Result<quinn::Endpoint> {
        let mut endpoint = self.endpoint.lock();
        let fits = endpoint
            .local_addr()
            .is_ok_and(|local| local.is_ipv4() == address.is_ipv4());
        if !fits {
            *endpoint = endpoint::client(address)
                .map_err(|error| Error::new(ErrorKind::Io, format!("cannot open a UDP socket: {error}")))?;
        }
        Ok(endpoint.clone())
    }

    /// Waits between two attempts; not for long if somebody waits for a session, unless the server does not want this
    /// client. False once the link is closed.
    async fn pause(&self, pause: Duration, is_refused: bool) -> bool {
        let (mut closed, mut wanted) = (self.state.subscribe(), self.wanted.subscribe());
        let wanted = async {
            tokio::time::sleep(PAUSE_WANTED).await;
            if is_refused || wanted.wait_for(|count| *count > 0).await.is_err() {
                std::future::pending().await
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = wanted => true,
            _ = closed.wait_for(|state| matches!(state, LinkState::Closed)) => false,
        }
    }
}

/// From 0 to 1, so that many clients do not come back at one moment: they differ in their instance, and tries of one
/// in their number.
fn spread(instance: InstanceId, number: u64) -> f64 {
    let mut hasher = DefaultHasher::new();
    (instance.0, number).hash(&mut hasher);
    let thousandths = u32::try_from(hasher.finish() % 1000).unwrap_or(0);
    f64::from(thousandths) / 1000.0
}
