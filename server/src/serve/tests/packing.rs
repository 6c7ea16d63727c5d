//! Packed payloads: both codecs, both ways, and what a client may not send.

use lacuna_transport::attr::Attr;
use lacuna_transport::compression::Contexts;
use lacuna_transport::wire::codec::{Codec, Offer, When};
use lacuna_transport::wire::write::WriteRequest;

use super::*;

const LEN: usize = 300_000;

fn text() -> Vec<u8> {
    let lines = (0..).map(|n| format!("{n}: what repeats itself can be said in fewer bytes\n"));
    lines.flat_map(String::into_bytes).take(LEN).collect()
}

fn noise() -> Vec<u8> {
    let mut bytes = vec![0; LEN];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut bytes).unwrap();
    bytes
}

/// The whole of one volume, and which codec the server used.
async fn read(client: &mut Client, name: &str, offer: Option<Offer>) -> (Vec<u8>, Option<Codec>, usize) {
    let handle = client.open(name).await.handle;
    let range = ByteRange::at(0, u64::try_from(LEN).unwrap()).unwrap();
    let request = ReadRequest::new(handle, vec![range]).unwrap().offering(offer);
    let bodies = client.ask(Kind::Read, request.encode()).await.unwrap();
    let (head, payload) = bodies[0].split_at(request.reply_head_bytes());
    let payload_bytes = u32::try_from(payload.len()).unwrap();
    let (_, codec) = request.decode_reply_head(head, payload_bytes).unwrap();
    let mut bytes = vec![0; LEN];
    match codec {
        Some(codec) => Contexts::default().unpack(codec, payload, &mut bytes).unwrap(),
        None => bytes.copy_from_slice(payload),
    }
    (bytes, codec, payload.len())
}

async fn client_with(bed: &Bed, features: Features) -> Client {
    let identity = Identity::generate();
    bed.allow(&identity, Access::ReadWrite);
    Client::new(bed.connect(&identity).await, identity, features).await
}

/// A write of `bytes` at 0 whose payload is `payload`.
fn packed_write(handle: Handle, bytes: u64, codec: Codec, payload: &[u8]) -> Vec<u8> {
    let request = WriteRequest::new(handle, vec![ByteRange::at(0, bytes).unwrap()]).unwrap();
    let mut body = request.packed(codec).encode_head();
    body.extend_from_slice(payload);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_packed_as_offered_and_only_if_they_shrink() {
    let bed = Bed::start();
    let (text, noise) = (text(), noise());
    bed.volume("text", u64::try_from(LEN).unwrap(), &[(0, &text)]);
    bed.volume("noise", u64::try_from(LEN).unwrap(), &[(0, &noise)]);
    let mut client = bed.client().await;
    for codec in Codec::ALL {
        let offer = Offer::new(&[codec], When::Always);
        let (bytes, used, payload_bytes) = read(&mut client, "text", offer).await;
        assert!(bytes == text, "{codec:?}");
        assert_eq!(used, Some(codec));
        assert!(payload_bytes < LEN / 4, "{codec:?}: {payload_bytes} bytes");
        let (bytes, used, payload_bytes) = read(&mut client, "noise", offer).await;
        assert!(bytes == noise, "{codec:?}");
        assert_eq!((used, payload_bytes), (None, LEN));
    }
    let (bytes, used, _) = read(&mut client, "text", None).await;
    assert!(bytes == text);
    assert_eq!(used, None, "nothing was offered");
    bed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn packed_writes_are_taken() {
    let bed = Bed::start();
    bed.volume("v", 0, &[]);
    let mut client = bed.client().await;
    let handle = client.open_to_change("v").await.handle;
    for (codec, byte) in [(Codec::Zstd, b'z'), (Codec::Lz4, b'l')] {
        let mut bytes = text();
        bytes[LEN / 2] = byte;
        let packed = Contexts::default().pack(codec, &[&bytes]).unwrap();
        let len = u64::try_from(LEN).unwrap();
        let body = packed_write(handle, len, codec, &packed);
        let attr: Attr = message::decode(&client.ask(Kind::Write, body).await.unwrap()[0]).unwrap();
        assert_eq!(attr.size, len);
        assert!(
            std::fs::read(bed.folder.path().join("v")).unwrap() == bytes,
            "{codec:?}"
        );
    }
    bed.stop().await;
}

/// The session ends, with a text, and the volume is what it was.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_unpack_ends_the_session() {
    let bed = Bed::start();
    bed.volume("v", 4, &[(0, b"kept")]);
    let bytes = text();
    let len = u64::try_from(LEN).unwrap();
    for codec in Codec::ALL {
        let packed = Contexts::default().pack(codec, &[&bytes]).unwrap();
        let bomb = Contexts::default().pack(codec, &[vec![0; 1 << 20]]).unwrap();
        let cases = [
            ("truncated", len, &packed[..packed.len() - 1]),
            ("too much", len - 1, &packed),
            ("too little", len + 1, &packed),
            ("a bomb", 64 << 10, &bomb),
            ("garbage", len, &bytes[..1000]),
            ("nothing", len, &[]),
            ("longer than what it stands for", 100, &bytes[..100]),
        ];
        for (what, len, payload) in cases {
            let mut client = bed.client().await;
            let handle = client.open_to_change("v").await.handle;
            let body = packed_write(handle, len, codec, payload);
            send(&mut client.lane.0, &client.traffic, Kind::Write, 9, body).await;
            let (code, text) = client.closed().await;
            assert_eq!(code, CloseCode::Protocol, "{codec:?}, {what}: {text}");
            bed.let_others_write("v").await;
            let kept = std::fs::read(bed.folder.path().join("v")).unwrap();
            assert_eq!(kept, b"kept", "{codec:?}, {what}");
        }
    }
    bed.stop().await;
}

/// Neither side uses what the other did not name.
#[tokio::test(flavor = "multi_thread")]
async fn a_codec_that_was_not_agreed_on_ends_the_session() {
    let bed = Bed::start();
    let bytes = text();
    bed.volume("v", u64::try_from(LEN).unwrap(), &[(0, &bytes)]);
    for codec in Codec::ALL {
        let lacking = Features::KNOWN.without(codec.feature());
        let mut client = client_with(&bed, lacking).await;
        assert_eq!(client.welcome.features, lacking);
        let (read_bytes, used, _) = read(&mut client, "v", None).await;
        assert!(read_bytes == bytes && used.is_none());

        let handle = client.open("v").await.handle;
        let range = ByteRange::at(0, 4096).unwrap();
        let request = ReadRequest::new(handle, vec![range]).unwrap();
        let body = request.offering(Offer::new(&Codec::ALL, When::ByPath)).encode();
        send(&mut client.lane.0, &client.traffic, Kind::Read, 9, body).await;
        assert_eq!(client.closed().await.0, CloseCode::Protocol);

        let mut client = client_with(&bed, lacking).await;
        let handle = client.open_to_change("v").await.handle;
        let packed = Contexts::default().pack(codec, &[vec![1; LEN]]).unwrap();
        let body = packed_write(handle, u64::try_from(LEN).unwrap(), codec, &packed);
        send(&mut client.lane.0, &client.traffic, Kind::Write, 9, body).await;
        assert_eq!(client.closed().await.0, CloseCode::Protocol);
        bed.let_others_write("v").await;
        assert!(std::fs::read(bed.folder.path().join("v")).unwrap() == bytes);
    }
    bed.stop().await;
}
