//! Hashes of units, on one session.

use lacuna_transport::digest::UnitHash;
use lacuna_transport::id::Generation;
use lacuna_transport::wire::WireError;
use lacuna_transport::wire::digest::{DigestRequest, decode_reply};
use lacuna_transport::wire::error_code::ErrorCode;
use lacuna_transport::wire::frame::{Code, Kind};
use lacuna_transport::wire::message::{self, Features, Message};

use super::QuicVolume;
use crate::remote::session::{RequestError, Session};
use crate::remote::{DIGESTS_UNSUPPORTED, UnitRange};

pub(super) async fn digest(
    session: &Session,
    volume: &QuicVolume,
    units: UnitRange,
) -> Result<(Generation, Vec<UnitHash>), RequestError> {
    // Before a session that does not know the request is lost by it.
    if !session.welcome.features.contains(Features::DIGESTS) {
        return Err(RequestError::Failed(
            ErrorCode::Unsupported,
            DIGESTS_UNSUPPORTED.to_owned(),
        ));
    }
    let handle = volume.handle(session).await?;
    let request = DigestRequest {
        handle,
        origin: units.origin,
        start: units.range.start(),
        end: units.range.end(),
        unit_log2: units.unit_log2,
        how: units.how,
    };
    let invalid = |error: WireError| RequestError::Failed(ErrorCode::Invalid, error.to_string());
    request.check().map_err(invalid)?;
    let exchange = session.request(Kind::Digest, message::encode(&request)).await?;
    let (header, exchange) = exchange.header().await?;
    let (body, exchange) = exchange.body(&header).await?;
    if header.code != Code::Done {
        return Err(WireError::OutOfBounds("frames of a digest reply").into());
    }
    let reply = decode_reply(&body, request.units())?;
    exchange.done();
    Ok(reply)
}

#[cfg(test)]
mod tests;
