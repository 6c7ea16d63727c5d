//! What is written is read again; what is damaged is told.

use proptest::prelude::*;

use super::*;

/// A record with its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Record {
    Data(Vec<u8>),
    Hole(u64),
    Zero(u64),
}

impl Record {
    fn bytes(&self) -> u64 {
        match self {
            Self::Data(data) => data.len().try_into().unwrap(),
            Self::Hole(length) | Self::Zero(length) => *length,
        }
    }
}

fn encode(size: Option<u64>, records: &[Record], digest: Digest) -> Vec<u8> {
    let mut encoder = Encoder::new(size).unwrap();
    let mut stream = encoder.head().to_vec();
    for record in records {
        match record {
            Record::Data(data) => {
                stream.extend(encoder.data(data.len().try_into().unwrap()).unwrap());
                stream.extend(data);
            }
            Record::Hole(length) => stream.extend(encoder.hole(*length).unwrap()),
            Record::Zero(length) => stream.extend(encoder.zero(*length).unwrap()),
        }
    }
    stream.extend(encoder.end(digest).unwrap());
    stream
}

#[derive(Debug, PartialEq, Eq)]
struct Decoded {
    size: Option<u64>,
    /// The pieces of one record joined; records of data that follow each other too.
    records: Vec<Record>,
    end: (u64, Digest),
}

/// Decodes a whole stream that comes in pieces of the lengths that `piece_bytes` gives, again and again.
fn decode(stream: &[u8], piece_bytes: &[usize]) -> Result<Decoded, RecordError> {
    let mut decoder = Decoder::default();
    let (mut size, mut records, mut end) = (None, Vec::new(), None);
    let mut lengths = piece_bytes.iter().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let (mut input, later) = rest.split_at((*lengths.next().unwrap()).clamp(1, rest.len()));
        rest = later;
        while let Some(piece) = decoder.next(&mut input)? {
            match piece {
                Piece::Head { size: told } => size = told,
                Piece::Data(data) => match records.last_mut() {
                    Some(Record::Data(before)) => before.extend(data),
                    _ => records.push(Record::Data(data.to_vec())),
                },
                Piece::Hole(length) => records.push(Record::Hole(length)),
                Piece::Zero(length) => records.push(Record::Zero(length)),
                Piece::End { total, digest } => end = Some((total, digest)),
            }
        }
        assert!(input.is_empty(), "bytes are left without a reason");
    }
    decoder.finish()?;
    let end = end.expect("a finished stream has an end");
    Ok(Decoded { size, records, end })
}

fn joined(records: &[Record]) -> Vec<Record> {
    let mut joined: Vec<Record> = Vec::new();
    for record in records {
        match (joined.last_mut(), record) {
            (Some(Record::Data(before)), Record::Data(data)) => before.extend(data),
            _ => joined.push(record.clone()),
        }
    }
    joined
}

#[test]
fn the_bytes_are_pinned() {
    let records = [Record::Data(b"abc".to_vec()), Record::Hole(5), Record::Zero(2)];
    let stream = encode(Some(10), &records, Digest::Blake3([7; 32]));
    let mut expected = b"lacuna\r\n\x01\0\0\0\x0a\0\0\0\0\0\0\0".to_vec();
    expected.extend(b"\x01\x03\0\0\0abc");
    expected.extend(b"\x02\x05\0\0\0\0\0\0\0");
    expected.extend(b"\x03\x02\0\0\0\0\0\0\0");
    expected.extend(b"\x04\x0a\0\0\0\0\0\0\0\x01");
    expected.extend([7; 32]);
    assert_eq!(stream, expected);
}

#[test]
fn an_empty_volume_is_a_head_and_an_end() {
    for size in [None, Some(0)] {
        let stream = encode(size, &[], Digest::None);
        assert_eq!(stream.len(), HEAD_BYTES + END_BYTES);
        let decoded = decode(&stream, &[1]).unwrap();
        assert_eq!((decoded.size, decoded.end), (size, (0, Digest::None)));
    }
}

#[test]
fn every_truncation_is_told_with_its_place() {
    let stream = encode(
        None,
        &[Record::Hole(100), Record::Data(vec![1; 20])],
        Digest::Tree([1; 32]),
    );
    for length in 0..stream.len() {
        let Err(RecordError::Truncated(at)) = decode(&stream[..length], &[7]) else {
            panic!("{length} bytes were taken for a whole stream");
        };
        let payload = HEAD_BYTES + SPAN_BYTES + DATA_HEAD_BYTES;
        let expected = match length {
            _ if length < HEAD_BYTES + SPAN_BYTES => 0,
            _ => 100 + length.saturating_sub(payload).min(20),
        };
        assert_eq!(usize::try_from(at).unwrap(), expected, "cut after {length}");
    }
}

#[test]
fn what_follows_the_end_is_refused() {
    let mut stream = encode(Some(1), &[Record::Hole(1)], Digest::None);
    stream.push(0);
    for piece in [1, stream.len()] {
        assert_eq!(decode(&stream, &[piece]), Err(RecordError::Trailing));
    }
}

#[test]
fn other_bytes_are_told_at_the_first_one_that_differs() {
    let mut decoder = Decoder::default();
    assert_eq!(decoder.next(&mut &b"lac"[..]), Ok(None));
    assert_eq!(decoder.next(&mut &b"X"[..]), Err(RecordError::Magic));
    assert_eq!(decode(b"lacuna\n\n", &[8]), Err(RecordError::Magic));
}

#[test]
fn damage_of_each_field_is_told() {
    let good = encode(
        Some(9),
        &[Record::Data(vec![1; 4]), Record::Hole(5)],
        Digest::None,
    );
    let (data, hole) = (HEAD_BYTES, HEAD_BYTES + DATA_HEAD_BYTES + 4);
    let end = hole + SPAN_BYTES;
    let with = |at: usize, byte: u8| {
        let mut stream = good.clone();
        stream[at] = byte;
        decode(&stream, &[3]).unwrap_err()
    };
    assert_eq!(with(8, 2), RecordError::Version(2));
    assert_eq!(with(11, 1), RecordError::Flags(256));
    assert_eq!(with(19, 0x80), RecordError::Size((1 << 63) + 9));
    assert_eq!(with(data, 9), RecordError::Kind(9, 0));
    assert_eq!(with(hole, 0), RecordError::Kind(0, 4));
    let (at, most) = (0, 9);
    let length = 0;
    assert_eq!(with(data + 1, 0), RecordError::Length { at, length, most });
    let length = 10;
    assert_eq!(with(data + 1, 10), RecordError::Length { at, length, most });
    let (told, counted) = (9, 8);
    assert_eq!(with(hole + 1, 4), RecordError::Total { told, counted });
    let (told, counted) = (8, 9);
    assert_eq!(with(end + 1, 8), RecordError::Total { told, counted });
    assert_eq!(with(end + 9, 3), RecordError::Digest(3));
    assert_eq!(with(end + 10, 1), RecordError::Digest(0));
    let mut short = encode(None, &[Record::Hole(8)], Digest::None);
    short[12..20].copy_from_slice(&9_u64.to_le_bytes());
    let (told, counted) = (9, 8);
    assert_eq!(decode(&short, &[64]), Err(RecordError::Short { told, counted }));
}

#[test]
fn the_bounds_of_lengths_are_exact() {
    let mut encoder = Encoder::new(None).unwrap();
    assert!(encoder.data(0).is_err());
    assert!(encoder.data(RECORD_BYTES_MAX + 1).is_err());
    assert!(encoder.data(RECORD_BYTES_MAX).is_ok());
    assert!(encoder.hole(0).is_err());
    assert!(
        encoder
            .hole(VOLUME_BYTES_MAX - u64::from(RECORD_BYTES_MAX))
            .is_ok()
    );
    assert!(encoder.zero(1).is_err(), "no volume is larger");
    assert!(Encoder::new(Some(VOLUME_BYTES_MAX)).is_ok());
    assert_eq!(
        Encoder::new(Some(VOLUME_BYTES_MAX + 1)).unwrap_err(),
        RecordError::Size(VOLUME_BYTES_MAX + 1)
    );
    let mut short = Encoder::new(Some(5)).unwrap();
    short.hole(4).unwrap();
    assert!(short.clone().hole(2).is_err());
    assert!(short.end(Digest::None).is_err());
}

#[test]
fn the_largest_record_of_data_comes_through() {
    let data = vec![5; usize::try_from(RECORD_BYTES_MAX).unwrap()];
    let stream = encode(None, &[Record::Data(data.clone())], Digest::None);
    let decoded = decode(&stream, &[4096]).unwrap();
    assert_eq!(decoded.records, [Record::Data(data)]);
}

fn any_record() -> impl Strategy<Value = Record> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 1..50).prop_map(Record::Data),
        (1..1_u64 << 40).prop_map(Record::Hole),
        (1..1_u64 << 40).prop_map(Record::Zero),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_in_pieces_of_any_length(
        records in prop::collection::vec(any_record(), 0..20),
        is_size_known: bool,
        digest in prop_oneof![
            Just(Digest::None),
            any::<[u8; 32]>().prop_map(Digest::Blake3),
            any::<[u8; 32]>().prop_map(Digest::Tree),
        ],
        piece_bytes in prop::collection::vec(1..100_usize, 1..8),
    ) {
        let total = records.iter().map(Record::bytes).sum();
        let size = is_size_known.then_some(total);
        let decoded = decode(&encode(size, &records, digest), &piece_bytes).unwrap();
        prop_assert_eq!(decoded, Decoded { size, records: joined(&records), end: (total, digest) });
    }

    #[test]
    fn any_bytes_are_judged_the_same_in_pieces_of_any_length(
        mut stream in prop::collection::vec(prop_oneof![0..5_u8, any::<u8>()], 0..200),
        has_head: bool,
        piece_bytes in prop::collection::vec(1..20_usize, 1..8),
    ) {
        if has_head {
            stream.splice(0..0, Encoder::new(None).unwrap().head());
        }
        prop_assert_eq!(decode(&stream, &piece_bytes), decode(&stream, &[usize::MAX]));
    }
}
