//! Packing in front of a stream: decides, and keeps the work off the threads that serve streams.
//!
//! A short payload is packed right here, for a hand-over to another thread costs more. A long one is tried with a
//! sample right here, so that what does not shrink is never handed over; the rest is done on the blocking pool, by
//! as many threads at once as the machine has cores: the pool keeps room for storage, and memory its bound.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use quinn::Connection;
use tokio::sync::Semaphore;

use crate::compression::choice::{self, Path};
use crate::compression::probe::Probe;
use crate::compression::{Contexts, PACK_BYTES_MIN, SAMPLED_BYTES_MIN};
use crate::wire::WireError;
use crate::wire::codec::{Codec, Offer};

/// Payloads up to this length are packed and unpacked at once: 30 µs at most on a machine of 2020.
const AT_ONCE_BYTES_MAX: usize = 16 << 10;

/// Cores that this process may use. Looked up once, the first time: quotas are in files that a confined daemon does
/// not reach.
pub fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// See the module. A server has one for all sessions, a client one for each.
#[derive(Debug)]
pub struct Packing {
    contexts: Arc<Contexts>,
    free: Arc<Semaphore>,
}

impl Default for Packing {
    fn default() -> Self {
        Self {
            contexts: Arc::default(),
            free: Arc::new(Semaphore::new(cores())),
        }
    }
}

impl Packing {
    /// `payload` as it is to go over `connection`, and the codec if it was packed.
    pub async fn pack(
        &self,
        offer: Option<Offer>,
        probe: &Probe,
        connection: &Connection,
        payload: Vec<Bytes>,
    ) -> (Vec<Bytes>, Option<Codec>) {
        let bytes: usize = payload.iter().map(Bytes::len).sum();
        let Some(offer) = offer.filter(|_| bytes >= PACK_BYTES_MIN) else {
            return (payload, None);
        };
        let path = || {
            let stats = connection.stats().path;
            Path {
                rtt: stats.rtt,
                rtt_min: stats.min_rtt,
                window_bytes: stats.cwnd,
            }
        };
        let Some(codec) = choice::choose(offer, path).filter(|_| probe.is_due()) else {
            return (payload, None);
        };
        let packed = self.try_pack(codec, &payload, bytes).await;
        probe.tried(packed.is_some());
        match packed {
            Some(packed) => (vec![Bytes::from(packed)], Some(codec)),
            None => (payload, None),
        }
    }

    async fn try_pack(&self, codec: Codec, payload: &[Bytes], bytes: usize) -> Option<Vec<u8>> {
        if bytes >= SAMPLED_BYTES_MIN && !self.contexts.sample_shrinks(codec, payload) {
            return None;
        }
        if bytes <= AT_ONCE_BYTES_MAX {
            return self.contexts.pack(codec, payload);
        }
        let payload = payload.to_vec();
        self.apart(move |contexts| contexts.pack(codec, &payload))
            .await
            .flatten()
    }

    /// Fills `bytes` with what `packed` holds, which must be exactly as much.
    pub async fn unpack<B>(&self, codec: Codec, packed: Vec<u8>, mut bytes: B) -> Result<B, WireError>
    where
        B: AsRef<[u8]> + AsMut<[u8]> + Send + 'static,
    {
        let len = bytes.as_ref().len();
        if len <= AT_ONCE_BYTES_MAX {
            self.contexts.unpack(codec, &packed, bytes.as_mut())?;
            return Ok(bytes);
        }
        let unpacked =
            self.apart(move |contexts| contexts.unpack(codec, &packed, bytes.as_mut()).map(|()| bytes));
        unpacked.await.unwrap_or_else(|| {
            Err(WireError::Packed {
                codec: codec.word(),
                bytes: len,
                why: "this process is ending".to_owned(),
            })
        })
    }

    /// On the blocking pool; `None` while the runtime ends.
    async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Contexts) -> T + Send + 'static,
    ) -> Option<T> {
        let free = Arc::clone(&self.free).acquire_owned().await.ok()?;
        let contexts = Arc::clone(&self.contexts);
        let work = move || {
            let done = work(&contexts);
            drop(free);
            done
        };
        tokio::task::spawn_blocking(work).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On both sides of the bound, the same bytes come back.
    #[tokio::test]
    async fn short_and_long_payloads_come_back() {
        let packing = Packing::default();
        for codec in Codec::ALL {
            for len in [AT_ONCE_BYTES_MAX, AT_ONCE_BYTES_MAX + 1, SAMPLED_BYTES_MIN] {
                let payload = [Bytes::from(vec![7; len])];
                let packed = packing.try_pack(codec, &payload, len).await.unwrap();
                let bytes = packing.unpack(codec, packed.clone(), vec![0; len]).await;
                assert!(bytes.unwrap() == payload[0], "{codec:?}: {len}");
                let longer = packing.unpack(codec, packed, vec![0; len + 1]).await;
                assert!(longer.is_err(), "{codec:?}: {len}");
            }
        }
    }
}
