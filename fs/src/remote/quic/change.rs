//! Changes of the content of a volume.
//!
//! None is sent twice from here: one whose answer is lost may have had its effect, and what it would do the
//! second time depends on what else was sent. Who keeps the changes (`volume`) knows. A session with a
//! change that was not answered is closed, since the server holds the next one back until that change has
//! ended.

use bytes::Bytes;
use lacuna_transport::attr::{Attr, NewAttr};
use lacuna_transport::range::ByteRange;
use lacuna_transport::wire::frame::Kind;
use lacuna_transport::wire::message::{
    self, Copied, CopyRequest, FlushRequest, Reshape, ReshapeRequest, ResizeRequest, SetAttrRequest, Subject,
};
use lacuna_transport::wire::write::{Flush, WriteRequest};

use super::QuicVolume;
use crate::error::{Error, ErrorKind, Result};
use crate::overlay::buffer::Slice;
use crate::remote::Named;
use crate::remote::session::{RequestError, Session};

/// A change that was sent and not answered: whoever gives up waiting for it closes the session, so that it
/// cannot take effect after what is sent later.
struct Unanswered<'a>(Option<&'a Session>);

impl Unanswered<'_> {
    async fn wait<T>(
        mut self,
        request: impl Future<Output = Result<T, RequestError>>,
    ) -> Result<T, RequestError> {
        let result = request.await;
        self.0 = None;
        result
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.0 {
            session.close_unsure("nobody waits for it any more");
        }
    }
}

/// What a change came to. `Disconnected`: nobody knows.
pub(super) fn outcome<T>(
    session: &Session,
    result: Result<T, RequestError>,
    what: impl Fn() -> String,
) -> Result<T> {
    match result {
        Ok(reply) => Ok(reply),
        Err(RequestError::Failed(code, text)) => Err(Error::new(code.into(), text).within(what())),
        Err(RequestError::Protocol(error)) => {
            session.close_broken(&error);
            Err(Error::from(error).within(what()))
        }
        Err(RequestError::Lost(why)) => {
            session.close_unsure(&why);
            Err(Error::new(ErrorKind::Disconnected, why).within(what()))
        }
    }
}

pub(super) async fn write(
    session: &Session,
    volume: &QuicVolume,
    ranges: Vec<ByteRange>,
    slices: Vec<Slice>,
    flush: Option<Flush>,
) -> Result<Attr, RequestError> {
    let handle = volume.handle_to_change(session).await?;
    let request = WriteRequest::new(handle, ranges)?.flushed(flush);
    let payload = slices.into_iter().map(Bytes::from_owner).collect();
    let (payload, codec) = session.pack(&volume.shrinking, payload).await;
    let request = match codec {
        Some(codec) => request.packed(codec),
        None => request,
    };
    let answer = session.ask_with(Kind::Write, request.encode_head(), payload);
    Unanswered(Some(session)).wait(answer).await
}

/// Of several ranges only punches, and only if the server knows that.
pub(super) async fn reshape(
    session: &Session,
    volume: &QuicVolume,
    how: Reshape,
    (range, others): (ByteRange, &[ByteRange]),
    grow: bool,
) -> Result<Attr, RequestError> {
    let bounds = |range: &ByteRange| (range.start(), range.end());
    let request = ReshapeRequest {
        handle: volume.handle_to_change(session).await?,
        how,
        start: range.start(),
        end: range.end(),
        grow,
        others: (!others.is_empty()).then(|| others.iter().map(bounds).collect()),
    };
    let answer = session.ask(Kind::Reshape, message::encode(&request));
    Unanswered(Some(session)).wait(answer).await
}

pub(super) async fn resize(session: &Session, volume: &QuicVolume, size: u64) -> Result<Attr, RequestError> {
    let handle = volume.handle_to_change(session).await?;
    let request = ResizeRequest { handle, size };
    let answer = session.ask(Kind::Resize, message::encode(&request));
    Unanswered(Some(session)).wait(answer).await
}

pub(super) async fn copy(
    session: &Session,
    source: (&QuicVolume, ByteRange),
    target: (&QuicVolume, u64),
) -> Result<(u64, Attr), RequestError> {
    let request = CopyRequest {
        source: source.0.handle(session).await?,
        source_offset: source.1.start(),
        target: target.0.handle_to_change(session).await?,
        target_offset: target.1,
        length: source.1.len(),
    };
    let answer = session.ask(Kind::Copy, message::encode(&request));
    let copied: Copied = Unanswered(Some(session)).wait(answer).await?;
    if copied.bytes > request.length {
        return Err(lacuna_transport::wire::WireError::OutOfBounds("copied bytes").into());
    }
    Ok((copied.bytes, copied.attr))
}

pub(super) async fn flush(
    session: &Session,
    volume: &QuicVolume,
    data_only: bool,
) -> Result<Attr, RequestError> {
    let handle = volume.handle(session).await?;
    let request = FlushRequest { handle, data_only };
    let answer = session.ask(Kind::Flush, message::encode(&request));
    Unanswered(Some(session)).wait(answer).await
}

pub(super) async fn set_attr(
    session: &Session,
    subject: &Named<'_, QuicVolume>,
    attr: NewAttr,
) -> Result<Attr, RequestError> {
    let subject = match subject {
        Named::Path(path) => Subject::Path((*path).clone()),
        Named::Open(volume) => Subject::Open(volume.handle(session).await?),
    };
    let request = SetAttrRequest { subject, attr };
    session.ask(Kind::SetAttr, message::encode(&request)).await
}
