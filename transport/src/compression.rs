//! Packs payloads and unpacks them: pure, without a runtime.
//!
//! * [`choice`]: which codec pays on which path.
//! * [`probe`]: when to try again with data that did not shrink.
//! * [`Contexts`]: the codecs themselves, with memory that is used again.
//!
//! **Invariants.** Unpacking writes into memory of the announced length and nowhere else; fewer or more bytes are
//! an error. What a side packs is shorter than the bytes by at least a [`SHRINK_FRACTION`]th.
//!
//! Left out on purpose: dictionaries and streams over several payloads. A payload stands for itself, so one that is
//! lost or sent again changes no other.

pub mod choice;
pub mod probe;

use std::fmt;

use parking_lot::Mutex;

use crate::wire::WireError;
use crate::wire::codec::Codec;

/// Shorter payloads are sent as they are: they fit a packet.
pub const PACK_BYTES_MIN: usize = 1 << 10;
/// A payload that shrinks by less than this part of it is sent as it is: unpacking costs more than that saves.
pub const SHRINK_FRACTION: usize = 16;
/// Payloads from this length on are tried with a sample first: it then costs a small part of packing all.
pub const SAMPLED_BYTES_MIN: usize = 64 << 10;
/// Bytes at each of the two places that a sample is taken from.
const SAMPLE_BYTES: usize = 4 << 10;
/// Level of zstd: the fastest of those that shrink much.
const ZSTD_LEVEL: i32 = 1;
/// Unused contexts kept, of about 2 MiB each: what a machine of four cores uses at once.
const KEPT_MAX: usize = 4;

/// Contexts of the codecs, used again: making one costs as much as packing some KiB.
#[derive(Default)]
pub struct Contexts {
    unused: Mutex<Vec<Context>>,
}

#[derive(Default)]
struct Context {
    zstd_pack: Option<zstd::bulk::Compressor<'static>>,
    zstd_unpack: Option<zstd::bulk::Decompressor<'static>>,
    /// The pieces of a payload, joined.
    joined: Vec<u8>,
    packed: Vec<u8>,
}

impl Contexts {
    /// `payload`, packed; `None` if it does not shrink enough.
    pub fn pack<P: AsRef<[u8]>>(&self, codec: Codec, payload: &[P]) -> Option<Vec<u8>> {
        self.with(|context| {
            let packed = match payload {
                [all] => context.packed_of(codec, all.as_ref()),
                pieces => {
                    let mut joined = std::mem::take(&mut context.joined);
                    joined.clear();
                    pieces
                        .iter()
                        .for_each(|piece| joined.extend_from_slice(piece.as_ref()));
                    let packed = context.packed_of(codec, &joined);
                    context.joined = joined;
                    packed
                }
            };
            packed.map(|bytes| context.packed[..bytes].to_vec())
        })
    }

    /// True if a sample of `payload` shrinks enough to try all of it.
    pub fn sample_shrinks<P: AsRef<[u8]>>(&self, codec: Codec, payload: &[P]) -> bool {
        let sample = sample_of(payload);
        self.with(|context| context.packed_of(codec, &sample).is_some())
    }

    /// Fills `bytes` with what `packed` holds; an error unless that is exactly as much.
    pub fn unpack(&self, codec: Codec, packed: &[u8], bytes: &mut [u8]) -> Result<(), WireError> {
        let expected = bytes.len();
        let broken = |why: String| WireError::Packed {
            codec: codec.word(),
            bytes: expected,
            why,
        };
        let unpacked = match codec {
            Codec::Zstd => self
                .with(|context| context.unpack_zstd(packed, bytes))
                .map_err(|error| error.to_string()),
            Codec::Lz4 => lz4_flex::block::decompress_into(packed, bytes).map_err(|error| error.to_string()),
        };
        match unpacked {
            Ok(unpacked) if unpacked == expected => Ok(()),
            Ok(unpacked) => Err(broken(format!("it has {unpacked}"))),
            Err(why) => Err(broken(why)),
        }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Context) -> T) -> T {
        let unused = self.unused.lock().pop();
        let mut context = unused.unwrap_or_default();
        let done = work(&mut context);
        let mut unused = self.unused.lock();
        if unused.len() < KEPT_MAX {
            unused.push(context);
        }
        done
    }
}

impl Context {
    /// Packs into `self.packed` and tells how many bytes of it; `None` if that is not short enough.
    fn packed_of(&mut self, codec: Codec, bytes: &[u8]) -> Option<usize> {
        let bytes_max = bytes.len() - bytes.len().div_ceil(SHRINK_FRACTION);
        let packed_bytes = match codec {
            Codec::Zstd => {
                self.make_room(bytes_max);
                if self.zstd_pack.is_none() {
                    self.zstd_pack = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
                }
                // Ends as soon as it has no room left, with an error.
                let packed = self.zstd_pack.as_mut()?;
                packed
                    .compress_to_buffer(bytes, &mut self.packed[..bytes_max])
                    .ok()?
            }
            Codec::Lz4 => {
                self.make_room(lz4_flex::block::get_maximum_output_size(bytes.len()));
                lz4_flex::block::compress_into(bytes, &mut self.packed).ok()?
            }
        };
        (packed_bytes > 0 && packed_bytes <= bytes_max).then_some(packed_bytes)
    }

    fn make_room(&mut self, bytes: usize) {
        if self.packed.len() < bytes {
            self.packed.resize(bytes, 0);
        }
    }

    fn unpack_zstd(&mut self, packed: &[u8], bytes: &mut [u8]) -> std::io::Result<usize> {
        let context = match &mut self.zstd_unpack {
            Some(context) => context,
            none => none.insert(zstd::bulk::Decompressor::new()?),
        };
        context.decompress_to_buffer(packed, bytes)
    }
}

/// Some bytes from the first half of a payload and some from the second.
fn sample_of<P: AsRef<[u8]>>(payload: &[P]) -> Vec<u8> {
    let all: usize = payload.iter().map(|piece| piece.as_ref().len()).sum();
    let mut sample = Vec::with_capacity(2 * SAMPLE_BYTES);
    for start in [all / 4, all / 4 * 3] {
        let (mut skip, mut left) = (start, SAMPLE_BYTES);
        for piece in payload.iter().map(AsRef::as_ref) {
            let here = piece.get(skip..).unwrap_or_default();
            let here = &here[..here.len().min(left)];
            sample.extend_from_slice(here);
            left -= here.len();
            skip = skip.saturating_sub(piece.len());
        }
    }
    sample
}

impl fmt::Debug for Contexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Contexts({} unused)", self.unused.lock().len())
    }
}

#[cfg(test)]
mod tests;
