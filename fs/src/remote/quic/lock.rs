//! Requests for locks.

use lacuna_transport::id::Handle;
use lacuna_transport::wire::error_code::ErrorCode;
use lacuna_transport::wire::frame::Kind;
use lacuna_transport::wire::lock::{HeldLock, LockFound, LockRequest, Locked};
use lacuna_transport::wire::message::{self, Features};

use super::QuicVolume;
use crate::remote::session::{RequestError, Session};
use crate::remote::{LOCKS_UNSUPPORTED, LockAsk};

pub(super) async fn lock(
    session: &Session,
    volume: &QuicVolume,
    ask: &LockAsk,
) -> Result<Locked, RequestError> {
    check(session)?;
    let handle = volume.handle(session).await?;
    session
        .ask(Kind::Lock, message::encode(&request(handle, ask)))
        .await
}

pub(super) async fn test(
    session: &Session,
    volume: &QuicVolume,
    ask: &LockAsk,
) -> Result<Option<HeldLock>, RequestError> {
    check(session)?;
    let handle = volume.handle(session).await?;
    let found: LockFound = session
        .ask(Kind::TestLock, message::encode(&request(handle, ask)))
        .await?;
    Ok(found.held)
}

fn check(session: &Session) -> Result<(), RequestError> {
    if session.welcome.features.contains(Features::LOCKS) {
        return Ok(());
    }
    let text = LOCKS_UNSUPPORTED.to_owned();
    Err(RequestError::Failed(ErrorCode::Unsupported, text))
}

fn request(handle: Handle, ask: &LockAsk) -> LockRequest {
    LockRequest {
        handle,
        space: ask.space,
        owner: ask.owner,
        pid: ask.process,
        kind: ask.kind,
        start: ask.range.start(),
        end: ask.range.end(),
        tell: ask.tell,
        again: ask.again.then_some(true),
    }
}
