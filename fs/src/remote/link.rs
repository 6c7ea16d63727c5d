//! A link: the session of a mount, made again with back-off when it is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lacuna_transport::wire::event;
use lacuna_transport::wire::message::Features;
use tokio::sync::{mpsc, watch};

use super::Change;
use super::session::{LinkCounters, RequestError, Session, Target};
use crate::error::{Error, ErrorKind, Result};

/// First pause before connecting again.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Events not yet taken by the file system; a full queue slows the server's event stream down.
const EVENTS_MAX: usize = 1024;

/// Whether there is a session.
#[derive(Clone, Debug)]
pub enum LinkState {
    Connected(Arc<Session>),
    /// Since when, and what the last attempt said.
    Down(Instant, String),
    Closed,
}

/// What a mount hears from its server without asking.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    Changed(Change),
    /// Somewhere a lock was given up that stood in the way of one of ours.
    LocksFreed,
    /// There is a new session: events may have been missed.
    Reconnected,
}

#[derive(Debug)]
pub struct Link {
    target: Target,
    endpoint: quinn::Endpoint,
    counters: Arc<LinkCounters>,
    sessions: AtomicU64,
    state: watch::Sender<LinkState>,
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
            target,
            endpoint,
            counters,
            sessions: AtomicU64::new(1),
            state,
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
        match self.state() {
            LinkState::Connected(session) => {
                session.welcome.read_only || !session.welcome.features.contains(Features::CHANGES)
            }
            LinkState::Down(..) | LinkState::Closed => false,
        }
    }

    pub fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    pub fn state(&self) -> LinkState {
        self.state.borrow().clone()
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
        let found = state.wait_for(usable).await;
        match found.as_deref() {
            Ok(LinkState::Connected(session)) => Ok(Arc::clone(session)),
            _ => Err(Error::new(
                ErrorKind::Disconnected,
                format!("the link to {} is closed", self.target.name),
            )),
        }
    }

    /// Ends the session for good.
    pub fn close(&self) {
        let before = self.state.send_replace(LinkState::Closed);
        if let LinkState::Connected(session) = before {
            session.close();
        }
    }

    /// Closes, and waits until the goodbye has left the machine.
    pub async fn close_and_wait(&self) {
        self.close();
        self.endpoint.wait_idle().await;
    }

    async fn keep(self: Arc<Self>, events: mpsc::Sender<Event>) {
        loop {
            let LinkState::Connected(session) = self.state() else {
                return;
            };
            let why = self.listen(&session, &events).await;
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
                Ok(event::Event::LocksFreed(_)) => {
                    if events.send(Event::LocksFreed).await.is_err() {
                        return "the mount ended".to_owned();
                    }
                }
                // Nothing is asked of the server that it would tell of with this.
                Ok(event::Event::LeaseRecalled(_)) => {}
                Err(RequestError::Protocol(error)) => {
                    session.close_broken(&error);
                    return error.to_string();
                }
                // The connection tells why, in a moment.
                Err(RequestError::Lost(_) | RequestError::Failed(..)) => {
                    return session.closed().await.to_string();
                }
            }
        }
    }

    /// Tries until there is a session (true) or the link is closed (false).
    async fn reconnect(&self) -> bool {
        let mut pause = BACKOFF_MIN;
        loop {
            let number = self.sessions.fetch_add(1, Ordering::Relaxed) + 1;
            match Session::open(&self.endpoint, &self.target, number, Arc::clone(&self.counters)).await {
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
            let mut closed = self.state.subscribe();
            tokio::select! {
                () = tokio::time::sleep(jittered(pause)) => {}
                _ = closed.wait_for(|state| matches!(state, LinkState::Closed)) => return false,
            }
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }
}

/// Between half of a pause and all of it, so that many clients do not come back at one moment.
fn jittered(pause: Duration) -> Duration {
    let nanos = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |now| now.subsec_nanos());
    pause / 2 + (pause / 2).mul_f64(f64::from(nanos % 1000) / 1000.0)
}
