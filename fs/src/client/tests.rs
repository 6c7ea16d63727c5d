//! The crate API over a server in memory.

use bytes::Bytes;
use lacuna_transport::extent::ExtentKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::remote::memory::MemoryRemote;

const UNIT: u64 = 4096;

fn client() -> (MemoryRemote, Client<MemoryRemote>) {
    let remote = MemoryRemote::default();
    let client = Client::over(remote.clone(), &Options::default());
    (remote, client)
}

/// A volume of 64 units, data in every fourth, the last one cut.
async fn striped(client: &Client<MemoryRemote>) -> (Volume<MemoryRemote>, Vec<u8>) {
    let volume = client.create("striped", 64 * UNIT - 100).await.unwrap();
    let mut model = vec![0; 64 * 4096 - 100];
    for unit in (3..64).step_by(4) {
        let at = unit * 4096;
        let end = model.len().min(at + 4096);
        model[at..end].fill(unit as u8);
        volume.write(at as u64, &model[at..end]).await.unwrap();
    }
    volume.flush().await.unwrap();
    (volume, model)
}

#[tokio::test(start_paused = true)]
async fn a_reader_gives_data_and_holes_in_order() {
    let (_, client) = client();
    let (volume, model) = striped(&client).await;
    let (start, end) = (5000, 61 * UNIT + 7);
    let mut reader = volume.reader(start..end).unwrap();
    let mut bytes = Vec::new();
    let mut holes = 0;
    while let Some(piece) = reader.next().await.unwrap() {
        match piece {
            Piece::Data(data) => bytes.extend_from_slice(&data),
            Piece::Hole(len) => {
                holes += len;
                bytes.resize(bytes.len() + len as usize, 0);
            }
        }
    }
    assert_eq!(bytes, model[start as usize..end as usize]);
    assert!(holes > 40 * UNIT, "{holes} bytes came as holes");
}

#[tokio::test(start_paused = true)]
async fn bytes_alone_can_be_read_and_written_too() {
    let (_, client) = client();
    let (volume, model) = striped(&client).await;
    let mut bytes = Vec::new();
    let mut reader = volume.reader(0..volume.size()).unwrap();
    reader.read_to_end(&mut bytes).await.unwrap();
    assert_eq!(bytes, model);

    let copy = client.create("copy", volume.size()).await.unwrap();
    copy.write(0, &[9; 3 * 4096]).await.unwrap();
    let mut writer = copy.writer(0..copy.size()).unwrap();
    writer.write_all(&bytes).await.unwrap();
    writer.shutdown().await.unwrap();
    assert_eq!(copy.read(0, 1 << 20).await.unwrap(), model);
    let extents = copy.extents(0..u64::MAX, 1000).await.unwrap();
    let same = volume.extents(0..u64::MAX, 1000).await.unwrap();
    assert_eq!(extents, same, "zeros became holes");
    assert!(extents.iter().any(|extent| extent.kind == ExtentKind::Hole));
    let mut beyond = copy.writer(0..10).unwrap();
    let refused = beyond.write(Piece::Data(Bytes::from_static(&[1; 11]))).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::TooLarge);
}

#[tokio::test(start_paused = true)]
async fn what_was_flushed_survives_a_crash_and_what_was_not_is_sent_again() {
    let (remote, client) = client();
    let volume = client.create("v", 10 * UNIT).await.unwrap();
    volume.write(0, &[1; 4096]).await.unwrap();
    volume.flush().await.unwrap();
    volume.write(UNIT, &[2; 4096]).await.unwrap();
    volume.punch(0..UNIT).await.unwrap();
    remote.crash();
    volume.flush().await.unwrap();
    remote.crash();
    let bytes = volume.read(0, 2 * 4096).await.unwrap();
    assert!(bytes[..4096].iter().all(|byte| *byte == 0));
    assert!(bytes[4096..].iter().all(|byte| *byte == 2));
    drop(volume);
    client.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_not_a_volume_is_refused() {
    let (_, client) = client();
    let volume = client.create("v", 10).await.unwrap();
    assert_eq!(
        client.create("v", 10).await.unwrap_err().kind(),
        ErrorKind::Exists
    );
    assert_eq!(
        client.open("none", Access::Read).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        client.open("", Access::Read).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        client.open("../v", Access::Read).await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
    let text = volume.reader(0..11).unwrap_err().to_string();
    assert!(text.contains("11") && text.contains("10"), "{text}");
    let read_only = client.open("v", Access::Read).await.unwrap();
    assert!(read_only.write(0, b"x").await.is_err());
}

/// Nobody knows how much of a write was taken in whose caller stopped waiting, so nothing is written behind it.
#[tokio::test(start_paused = true)]
async fn a_writer_whose_write_was_given_up_takes_no_more() {
    let remote = MemoryRemote::default();
    let options = Options {
        window_bytes: WINDOW_BYTES_MIN,
        timeout: None,
        ..Options::default()
    };
    let client = Client::over(remote.clone(), &options);
    let size = 4 * WINDOW_BYTES_MIN;
    let volume = client.create("v", size).await.unwrap();
    let mut writer = volume.writer(0..size).unwrap();
    remote.delay(crate::remote::memory::Delays {
        before: Duration::from_secs(3600),
        ..Default::default()
    });
    let most = Bytes::from(vec![1; 3 << 22]);
    let waited = tokio::time::timeout(Duration::from_secs(1), writer.write(Piece::Data(most))).await;
    assert!(waited.is_err(), "a window of 4 MiB took in 12 MiB: {waited:?}");
    assert!(writer.write_all(b"behind").await.is_err(), "a write was lost");
    assert!(writer.shutdown().await.is_err(), "a write was lost");
}

/// Neither an end nor what comes behind it, which would be taken for the whole content.
#[tokio::test(start_paused = true)]
async fn a_reader_that_failed_fails_for_ever() {
    let (remote, client) = client();
    let (volume, _) = striped(&client).await;
    for known in [false, true] {
        if known {
            volume.extents(0..volume.size(), 1000).await.unwrap();
        }
        remote.fail_with(Some(ErrorKind::Io));
        let mut reader = volume.reader(0..volume.size()).unwrap();
        let error = loop {
            match reader.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a server that fails gave all of it"),
                Err(error) => break error,
            }
        };
        remote.fail_with(None);
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(reader.next().await.unwrap_err().kind(), ErrorKind::Io);
        assert!(reader.read_to_end(&mut Vec::new()).await.is_err());
    }
}
