//! The first frames of a session.

use std::sync::Arc;
use std::time::Duration;

use lacuna_transport::id::{InstanceId, RequestId};
use lacuna_transport::limits::HELLO_TIMEOUT;
use lacuna_transport::quic::close::CloseCode;
use lacuna_transport::quic::frames::{self, FrameError};
use lacuna_transport::wire::frame::{Code, Kind, Sender};
use lacuna_transport::wire::message::{self, Features, Hello, Welcome};
use lacuna_transport::wire::{VERSION, WireError};
use quinn::{RecvStream, SendStream};
use tokio::time::timeout;

use super::{End, Session};
use crate::operations::InstanceKey;

/// For what an older session of the same instance has under way to end: storage that takes longer than this
/// does not answer the client either. Less than [`HELLO_TIMEOUT`], so that the client is told.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(5);

const AGENT: &str = concat!("lacunad/", env!("CARGO_PKG_VERSION"));

/// Both halves of the control stream, for as long as the session lives.
pub(super) type Control = (SendStream, RecvStream);

impl Session {
    /// Answers the client's hello. The features are those of the session.
    pub(super) async fn hello(self: &Arc<Self>) -> Result<(Control, Features), End> {
        let begun = timeout(HELLO_TIMEOUT, async {
            let mut control = self
                .connection
                .accept_bi()
                .await
                .map_err(|error| FrameError::Lost(error.to_string()))?;
            match self.exchange(&mut control).await {
                Ok(features) => Ok((control, features)),
                Err(end) => {
                    self.end(end);
                    Err(FrameError::Lost("the session was closed".to_owned()))
                }
            }
        });
        match begun.await {
            Ok(Ok(hello)) => Ok(hello),
            Ok(Err(error)) => Err(self.end(End::from(error))),
            Err(_) => {
                let text = format!("no hello within {} s", HELLO_TIMEOUT.as_secs());
                Err(self.end(End::new(CloseCode::Protocol, text)))
            }
        }
    }

    async fn exchange(self: &Arc<Self>, (send, receive): &mut Control) -> Result<Features, End> {
        let (hello, request) = self.receive_hello(receive).await?;
        if let Some(patience_ms) = hello.patience_ms {
            self.patience
                .get_or_init(|| Duration::from_millis(patience_ms.into()));
        }
        if let Some(instance) = hello.instance {
            self.take_over(instance).await?;
        }
        let features = hello.features.common(Features::KNOWN);
        let features = *self.features.get_or_init(|| features);
        #[expect(clippy::unnecessary_min_or_max, reason = "until VERSION is above 0")]
        let version = hello.version.min(VERSION);
        let welcome = Welcome {
            version,
            features,
            boot: self.server.boot,
            session: self.number,
            read_only: self.read_only,
            agent: AGENT.to_owned(),
        };
        let (traffic, body) = (&self.counters.traffic, message::encode(&welcome));
        frames::write_frame(send, traffic, Kind::Hello, Code::Done, request, body).await?;
        self.welcomed.get_or_init(|| ());
        tracing::debug!(session = self.number, agent = ?hello.agent, version = welcome.version, ?features, "hello");
        Ok(features)
    }

    /// Closes the older sessions of the same mount and waits for all that they have under way.
    async fn take_over(self: &Arc<Self>, instance: InstanceId) -> Result<(), End> {
        let key = InstanceKey::new(self.key, instance);
        let key = *self.instance.get_or_init(|| key);
        let older = self.server.succeed(key, self);
        for session in &older {
            session.end(End::new(
                CloseCode::Done,
                "a newer session of this mount took over",
            ));
        }
        let ended = async {
            for session in &older {
                session.work.ended().await;
            }
        };
        timeout(HANDOVER_TIMEOUT, ended).await.map_err(|_| {
            let text = "requests of the session before this one are still under way; connect again";
            End::new(CloseCode::Busy, text)
        })
    }

    async fn receive_hello(&self, receive: &mut RecvStream) -> Result<(Hello, RequestId), FrameError> {
        let traffic = &self.counters.traffic;
        let header = frames::read_header(receive, traffic, Sender::Client)
            .await?
            .ok_or_else(|| FrameError::Lost("the control stream ended before the hello".to_owned()))?;
        match header.kind {
            Kind::Hello => {}
            other => {
                return Err(WireError::Unexpected {
                    expected: Kind::Hello.word(),
                    got: other.word(),
                }
                .into());
            }
        }
        let hello: Hello = message::decode(&frames::read_body(receive, traffic, &header).await?)?;
        Ok((hello, header.request))
    }
}
