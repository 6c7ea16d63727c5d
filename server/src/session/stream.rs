//! `Finish`: how far a volume that is a stream is, and its end; and what the end of a session means to it.

use std::sync::Arc;

use lacuna_transport::quic::close::CloseCode;
use lacuna_transport::wire::message::{FinishRequest, StreamReport};

use super::Session;
use crate::backend::stream::Stream;
use crate::catalog::OpenNode;
use crate::error::{Error, ErrorKind, Result};

impl Session {
    pub(super) async fn finish(self: &Arc<Self>, request: FinishRequest) -> Result<StreamReport> {
        if request.finish {
            self.may_change()?;
        }
        let server = Arc::clone(&self.server);
        self.blocking(move || {
            let volume = server.backend.open(&request.path)?;
            let stream = volume.stream().ok_or_else(|| {
                let text = format!("'{}' is not a stream", request.path);
                Error::new(ErrorKind::Unsupported, text)
            })?;
            if request.finish {
                stream.finish();
            }
            Ok(stream.report())
        })
        .await
    }

    /// A stream that is written to hears of the end of this session.
    pub(super) fn note_stream(&self, open: &OpenNode) {
        let Some(stream) = open.volume().stream().filter(|_| open.is_for_change()) else {
            return;
        };
        let mut streams = self.streams.lock();
        if !streams.iter().any(|known| Arc::ptr_eq(known, stream)) {
            stream.writer_came(self.number);
            streams.push(Arc::clone(stream));
        }
    }

    /// True if the client has said goodbye, and will not come back. To be asked before this side closes the
    /// connection too: then that is the reason. One that goes before it was welcomed has given up this connection and
    /// not its mount: QUIC closes what is dropped with the code of a goodbye.
    pub(super) fn was_left(&self) -> bool {
        if self.welcomed.get().is_none() {
            return false;
        }
        let reason = self.connection.close_reason();
        let reason = reason.as_ref().and_then(CloseCode::of);
        // With a text: the client closed it for a reason, and comes back.
        reason.is_some_and(|(code, text)| code == CloseCode::Done && text.is_empty())
    }

    /// The session is over, and nothing of it is under way.
    pub(super) fn leave_streams(&self) {
        let clean = self.left.get().is_some_and(|left| *left);
        let streams: Vec<Arc<Stream>> = std::mem::take(&mut self.streams.lock());
        for stream in streams {
            stream.writer_left(self.number, clean);
        }
    }
}
