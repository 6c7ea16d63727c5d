//! Every bound of the protocol, in one place, each with its reason.
//!
//! A peer that goes over one of these gets an error on its session; it cannot make the other side
//! panic or take memory without bound. Changing a value that both sides rely on is a change of the
//! wire protocol (docs/PROTOCOL.md).

use std::time::Duration;

/// Largest size of a volume: the largest `off_t`.
pub const VOLUME_BYTES_MAX: u64 = (1 << 63) - 1;

/// Longest name, as NAME_MAX of every Linux file system.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest path, as PATH_MAX less its final zero.
pub const PATH_BYTES_MAX: usize = 4095;
/// Most names in a path: bounds the work of one lookup.
pub const PATH_DEPTH_MAX: usize = 128;

/// Largest body of a control message (requests, attribute replies, hello).
pub const MESSAGE_BYTES_MAX: u32 = 16 << 10;
/// Most payload bytes of one read: what the kernel asks of FUSE at most (256 pages of 4 KiB).
pub const READ_BYTES_MAX: u32 = 1 << 20;
/// Most ranges of one read: a prefetch over many small extents is one request, and its list still
/// fits a control message.
pub const READ_RANGES_MAX: usize = 256;
/// Most payload bytes of one write: as for a read.
pub const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Most ranges of one write: many small changes far apart are one request.
pub const WRITE_RANGES_MAX: usize = 256;
/// Most holes of one request: many small ones far apart; each may take the server a tenth of a millisecond.
pub const PUNCH_RANGES_MAX: usize = 64;
/// Most bytes one copy request covers: it then ends well before its deadline where data is really copied,
/// and the size of its answer fits what the kernel asks for.
pub const COPY_BYTES_MAX: u64 = 256 << 20;
/// Changes of names the server remembers for each mount, so that one sent again has effect once: more than
/// can be under way on all lanes.
pub const OPERATIONS_KEPT_MAX: usize = 256;
/// Mounts whose changes of names are remembered, the longest unused forgotten first.
pub const INSTANCES_KEPT_MAX: usize = 4096;
/// Most units one digest request covers: its reply is one piece of 128 KiB in memory.
pub const DIGEST_UNITS_MAX: u64 = 4096;
/// Most bytes one digest request covers: read and hashed well before its deadline, also from a slow disk, where
/// they lie in order.
pub const DIGEST_BYTES_MAX: u64 = 64 << 20;
/// Largest encoded page of an extent map.
pub const MAP_PAGE_BYTES_MAX: u32 = 64 << 10;
/// Most runs in one page: what a decoded page may cost, 16 bytes each.
pub const MAP_PAGE_RUNS_MAX: usize = 32 << 10;
/// Most bytes of one page of a folder listing.
pub const LIST_PAGE_BYTES_MAX: u32 = 64 << 10;
/// Most names in a folder: bounds a listing in memory on both sides (about 200 bytes a name).
pub const FOLDER_NODES_MAX: usize = 1 << 20;
/// Longest text of an error reply or agent name.
pub const TEXT_BYTES_MAX: usize = 512;

/// Most payload bytes of one data record of a stream: a reader holds one in memory, and it is one write.
pub const RECORD_BYTES_MAX: u32 = 1 << 20;

/// Lanes (request streams, one request in flight on each) of a session.
pub const LANES_MAX: u32 = 64;
/// Open volumes of a session: each costs the server a file descriptor, and both sides a few hundred bytes.
pub const SESSION_HANDLES_MAX: usize = 128 << 10;
/// Sessions of a server, all clients together.
pub const SESSIONS_MAX: usize = 1024;
/// Handshakes under way before new ones must prove their address (Retry).
pub const HANDSHAKES_UNPROVEN_MAX: usize = 64;
/// Handshakes under way before new ones get no answer; a server with little memory takes fewer.
pub const HANDSHAKES_MAX: usize = 256;
/// Of those, how many may come from one address once addresses have to be proven: one host cannot keep all others
/// out, and one that many clients share (NAT) still has room.
pub const HANDSHAKES_PER_ADDRESS_MAX: usize = 64;
/// Events queued for a slow client before its session is closed: it then reconnects and revalidates.
pub const EVENT_QUEUE_MAX: usize = 4096;

/// QUIC receive window of a stream: a whole read reply and some more is in flight.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// QUIC receive window of a session on a short path; larger ones overflow the socket buffers there.
pub const SESSION_WINDOW_BYTES: u32 = 12 << 20;
/// The same on a path of 47 ms and more: no side sends more than that ahead.
pub const SESSION_WINDOW_BYTES_MAX: u32 = 32 << 20;
/// Of a window, what is left for other requests than those of readahead.
const WINDOW_BESIDE_BYTES: u64 = 4 << 20;
/// What windows and readahead are made for, in bytes a second: 2.5 Gbit/s.
const PATH_BYTES_PER_SECOND: u64 = 312_500_000;
/// QUIC receive window of a connection whose key was not found on the allow list yet: a hello fits.
pub const UNADMITTED_WINDOW_BYTES: u32 = 32 << 10;
/// Packets kept of a client that was not accepted yet: the rest of its first flight.
pub const INCOMING_BYTES_MAX: u64 = 16 << 10;
/// The same of all of them.
pub const INCOMING_TOTAL_BYTES_MAX: u64 = 2 << 20;
/// Most unacknowledged bytes a side keeps for one session.
pub const SEND_WINDOW_BYTES: u64 = 32 << 20;
/// Congestion window before anything is known of the path. The default is two packets of 6500 bytes:
/// one probe of the packet size fills it, and quinn-proto 0.11.19 then holds even a close back.
pub const INITIAL_WINDOW_BYTES: u64 = 128 << 10;
/// Kernel socket buffers: the default of 208 KiB overflows in bursts.
pub const SOCKET_BUFFER_BYTES: usize = 16 << 20;
/// Largest UDP payload. Ten of these go into one segmentation-offload call, which the kernel refuses
/// above 65,507 bytes, silently for us.
pub const UDP_PAYLOAD_BYTES_MAX: u16 = 6500;

/// A session without any packet for so long is lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// An idle client shows that it lives so often, and hears within a second that the server was started again.
pub const KEEP_ALIVE: Duration = Duration::from_millis(800);
/// From the first packet to a finished hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// From a request to the first byte of each frame of its reply: frees the lane of one that hangs.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Lanes that reads leave to other requests, so that a hung volume does not hold up the names of others.
pub const LANES_KEPT: u32 = 8;
/// From the first to the last byte of one request, and for one write of a reply to make progress.
pub const LANE_STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes that are under way on a path of this round trip, at the rate that windows are made for.
pub fn path_bytes(round_trip: Duration) -> u64 {
    let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
    micros.saturating_mul(PATH_BYTES_PER_SECOND) / 1_000_000
}

/// The receive window for a path of this round trip: all that readahead of one handle asks for, and what else is asked for meanwhile.
pub fn session_window_bytes(round_trip: Duration) -> u32 {
    let ahead = path_bytes(round_trip).saturating_mul(2);
    let wanted = ahead.saturating_add(WINDOW_BESIDE_BYTES);
    u32::try_from(wanted)
        .unwrap_or(SESSION_WINDOW_BYTES_MAX)
        .clamp(SESSION_WINDOW_BYTES, SESSION_WINDOW_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_the_round_trip_within_their_bounds() {
        let window = |millis| session_window_bytes(Duration::from_millis(millis));
        assert_eq!(window(0), SESSION_WINDOW_BYTES);
        assert_eq!(window(10), SESSION_WINDOW_BYTES);
        assert_eq!(window(20), 12_500_000 + (4 << 20));
        assert_eq!(window(46), 28_750_000 + (4 << 20));
        assert_eq!(window(47), SESSION_WINDOW_BYTES_MAX);
        assert_eq!(window(1000), SESSION_WINDOW_BYTES_MAX);
        assert_eq!(session_window_bytes(Duration::MAX), SESSION_WINDOW_BYTES_MAX);
    }
}
